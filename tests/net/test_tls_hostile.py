"""TLS from a server that has read the RFC for what it may do to others: records made by hand (RFC 8446 5)."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.net.test_tls_transport import RECORD, Pair, configure

ALERT, HANDSHAKE, DATA = 21, 22, 23
KEY_UPDATE = b"\x18\x00\x00\x01"
"""The head of such a message; a byte follows: whether it asks for one in return (RFC 8446 4.6.3)."""


class Forger:
    """Encrypts whatever it is given, as the server of a connection would."""

    def __init__(self, secret: bytes) -> None:
        self.use(secret)

    def use(self, secret: bytes) -> None:
        self.secret = secret
        self.key = AESGCM(self.expand(b"key", 32))
        self.iv = int.from_bytes(self.expand(b"iv", 12), "big")
        self.count = 0

    def expand(self, label: bytes, size: int) -> bytes:
        """HKDF-Expand-Label (RFC 8446 7.1) of at most one hash."""
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0\1"
        return hmac.digest(self.secret, info, hashlib.sha384)[:size]

    def record(self, content: bytes, kind: int = DATA, padding: int = 0) -> bytes:
        plain = content + bytes([kind]) + bytes(padding)
        head = b"\x17\x03\x03" + (len(plain) + 16).to_bytes(2, "big")
        nonce = (self.iv ^ self.count).to_bytes(12, "big")
        self.count += 1
        return head + self.key.encrypt(nonce, plain, head)

    def key_update(self, requested: bool) -> bytes:
        sent = self.record(KEY_UPDATE + bytes([requested]), HANDSHAKE)
        self.use(self.expand(b"traffic upd", 48))
        return sent


class Forged(Pair):
    def __init__(self, folder: Path) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        configure(server, client)
        server.num_tickets = 0
        server.keylog_filename = str(folder / "keys")
        super().__init__(server, client)
        self.shake()
        assert self.server.cipher()[0] == "TLS_AES_256_GCM_SHA384"  # type: ignore[index]
        lines = (folder / "keys").read_text().split("\n")
        (secret,) = (line.split()[2] for line in lines if line.startswith("SERVER_TRAFFIC_SECRET_0"))
        self.forge = Forger(bytes.fromhex(secret))

    @property
    def lost(self) -> Any:
        """What the protocol is told in the end."""
        self.transport.connection_lost(None)
        (name, error) = self.app.told[-1]
        assert name == "lost"
        return error


@pytest.fixture
async def forged(tmp_path: Path) -> Forged:
    return Forged(tmp_path)


async def test_records_of_a_byte_and_of_nothing(forged: Forged) -> None:
    record = forged.forge.record
    forged.transport.data_received(b"".join(record(bytes([n % 256])) for n in range(3000)))
    assert forged.app.told == ["made", bytes(n % 256 for n in range(3000))]
    forged.app.told.clear()
    forged.transport.data_received(record(b"") + record(b"a") + record(b"", padding=1000) + record(b"b"))
    forged.transport.data_received(record(b""))
    assert forged.app.told == [b"ab"]


async def test_nothing_without_end_is_an_end(forged: Forged) -> None:
    for _ in range(100):
        forged.transport.data_received(forged.forge.record(b""))
        if forged.transport.is_closing():
            break
    assert forged.raw.calls == ["close"]
    assert isinstance(forged.lost, ssl.SSLError)


@pytest.mark.parametrize(("size", "fits"), [(RECORD, True), (RECORD + 1, False)])
async def test_the_largest_record(forged: Forged, size: int, fits: bool) -> None:
    good = forged.forge.record(b"good")
    forged.transport.data_received(good + forged.forge.record(bytes(size)))
    assert forged.app.data == b"good" + bytes(size if fits else 0)
    assert forged.transport.is_closing() != fits
    if not fits:
        assert "DATA_LENGTH_TOO_LONG" in forged.lost.reason


ALERTS = {
    0x28: "ALERT_HANDSHAKE_FAILURE",
    0x2D: "ALERT_CERTIFICATE_EXPIRED",
    0x50: "ALERT_INTERNAL_ERROR",
    0x74: "ALERT_CERTIFICATE_REQUIRED",
}


@pytest.mark.parametrize("code", ALERTS)
async def test_an_alert_is_named_after_what_came_before_it(forged: Forged, code: int) -> None:
    record = forged.forge.record
    forged.transport.data_received(record(b"before") + record(bytes([2, code]), ALERT) + record(b"after"))
    assert forged.app.told == ["made", b"before"]
    error = forged.lost
    assert isinstance(error, ssl.SSLError)
    assert ALERTS[code] in error.reason


async def test_what_comes_after_a_goodbye_is_not_data(forged: Forged) -> None:
    record = forged.forge.record
    forged.transport.data_received(
        record(b"last") + record(b"\x01\x00", ALERT) + record(b"forged") + b"not even a record"
    )
    forged.transport.data_received(record(b"later") + b"\xff" * 100_000)
    assert forged.app.told == ["made", b"last", "eof"]
    assert forged.raw.calls == ["close"]
    assert forged.lost is None


async def test_an_end_in_the_middle_of_a_record(forged: Forged) -> None:
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(forged.transport.ssl_object.read(1))
        except ssl.SSLError as error:
            found.append(type(error))

    forged.app.eof_received = look  # type: ignore[method-assign]
    forged.transport.data_received(forged.forge.record(b"whole") + forged.forge.record(b"half")[:-1])
    forged.transport.eof_received()
    assert forged.app.data == b"whole"
    assert found == [ssl.SSLEOFError]


@pytest.mark.parametrize("requested", [False, True])
async def test_a_key_update(forged: Forged, requested: bool) -> None:
    forge = forged.forge
    before, update = forge.record(b"old "), forge.key_update(requested)
    forged.transport.data_received(before + update + forge.record(b"new"))
    assert forged.app.told == ["made", b"old new"]
    forged.transport.data_received(forge.key_update(False) + forge.key_update(False) + forge.record(b"!"))
    assert forged.app.data == b"old new!"
    forged.transport.write(b"ours")
    assert (forged.raw.sent.count(b"\x17\x03\x03") == 2) == requested, "the answer goes before the data"
    assert forged.read() == b"ours"
    forged.transport.write(b" and more")
    assert forged.read() == b" and more"


async def test_answers_that_are_read_may_be_many(forged: Forged) -> None:
    for _ in range(1000):
        forged.transport.data_received(forged.forge.key_update(True))
        forged.transport.pause_writing()
        forged.transport.resume_writing()
    forged.transport.data_received(forged.forge.record(b"still here"))
    assert forged.app.data == b"still here"


async def test_answers_that_are_not_read_are_few(forged: Forged) -> None:
    forged.transport.pause_writing()
    forged.raw.unsent = [70_000]
    for _ in range(10_000):
        if forged.transport.is_closing():
            break
        forged.transport.data_received(forged.forge.key_update(True))
    assert forged.raw.calls == ["abort"]
    assert len(forged.raw.sent) <= 16_384
    error = forged.lost
    assert isinstance(error, ssl.SSLError)
    assert "does not read" in str(error)
