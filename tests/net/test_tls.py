"""Shared TLS contexts: what they are made of, when they are made anew, and whose sessions they resume."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.peers.kit import answering, fetch

from dodici import Client, InvalidArgumentError, Pool, TLSError
from dodici.net import tls
from dodici.net.connector import Connector
from dodici.net.tls import tls_context
from dodici.testing import PeerConnection, ScriptedPeer


class Clock:
    """The clock of the contexts, which a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tls, "time", made)
    monkeypatch.setattr(tls, "_entries", type(tls._entries)())
    return made


def replace(path: Path, write: Callable[[str], Any]) -> None:
    """As careful programs do it: another file takes the name."""
    other = path.with_suffix(".new")
    write(str(other))
    other.replace(path)


def ca_file(path: Path) -> trustme.CA:
    authority = trustme.CA()
    replace(path, authority.cert_pem.write_to_path)
    return authority


def test_contexts_are_made_once_per_set_of_options(tmp_path: Path) -> None:
    ca_file(tmp_path / "ca.pem")
    ca = str(tmp_path / "ca.pem")
    sets: list[dict[str, Any]] = [
        {},
        {"verify": False},
        {"ca": ca},
        {"ca": ca, "alpn": ("h2", "http/1.1")},
        {"ca": ca, "max_cached_sessions": 0},
    ]
    contexts = [tls_context(**each) for each in sets]
    assert len(set(map(id, contexts))) == len(sets)
    assert all(tls_context(**each) is context for each, context in zip(sets, contexts, strict=True))
    for context in contexts:
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.check_hostname == (context.verify_mode == ssl.CERT_REQUIRED)
    assert [context.verify_mode == ssl.CERT_NONE for context in contexts] == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_a_bounded_number_of_them(clock: Clock) -> None:
    for number in range(tls._CONTEXT_LIMIT + 5):
        tls_context(verify=False, alpn=(f"p{number}",))
    assert len(tls._entries) == tls._CONTEXT_LIMIT


@pytest.mark.skipif(sys.platform in {"darwin", "win32"}, reason="the platform verifies, nothing is loaded")
def test_the_systems_authorities_are_loaded_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ca_file(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(tls, "_entries", type(tls._entries)())
    context = tls_context()
    assert len(context.get_ca_certs()) == 1
    (tmp_path / "ca.pem").unlink()  # whoever looked again would fail now
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a.example")
    assert len(context.get_ca_certs()) == 1


@pytest.mark.skipif(sys.platform in {"darwin", "win32"}, reason="the platform verifies, nothing is loaded")
def test_a_python_that_looks_in_the_wrong_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ca_file(tmp_path / "bundle.pem")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr(tls, "_SYSTEM_BUNDLES", (str(tmp_path / "no"), str(tmp_path / "bundle.pem")))
    monkeypatch.setattr(tls, "_entries", type(tls._entries)())
    assert len(tls_context().get_ca_certs()) == 1


async def test_where_the_platform_verifies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # On macOS truststore asks the system; elsewhere it reads the file that this variable names.
    authority = ca_file(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(tls, "_system_context", lambda: (tls._platform_context(), ()))
    monkeypatch.setattr(tls, "_entries", type(tls._entries)())
    reused: list[bool] = []

    async def noting(connection: PeerConnection) -> None:
        reused.append(connection.transport.get_extra_info("ssl_object").session_reused)
        await answering(connection)

    if sys.platform in {"darwin", "win32"}:
        pytest.skip("its authorities are not ours to add to")
    async with ScriptedPeer(noting, tls=server(authority)) as peer, Client(peer.origin) as client:
        for _ in range(2):
            record = await fetch(client, reset=True)
            assert record.status_code == 200, record.error
        assert reused == [False, True]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    other = trustme.CA()
    async with ScriptedPeer(noting, tls=server(other)) as peer, Client(peer.origin) as client:
        assert isinstance((await fetch(client)).error, TLSError)
        peer.errors.clear()


def server(authority: trustme.CA, trusts: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if trusts is not None:
        trusts.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


# -- renewal ---------------------------------------------------------------------------------------------


def test_another_context_once_a_file_has_changed(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    ca_file(path)
    first = tls_context(ca=str(path))
    ca_file(path)
    assert tls_context(ca=str(path)) is first, "not looked at yet"
    clock.now += tls._CHECK_SECONDS
    second = tls_context(ca=str(path))
    assert second is not first
    assert second.get_ca_certs() != first.get_ca_certs()
    clock.now += tls._CHECK_SECONDS
    assert tls_context(ca=str(path)) is second
    os.utime(path, ns=(1, 1))
    clock.now += tls._CHECK_SECONDS
    assert tls_context(ca=str(path)) is not second


def test_files_are_looked_at_now_and_then(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    ca_file(path)
    tls_context(ca=str(path))
    looks: list[Any] = []
    stamp = tls._stamp
    monkeypatch.setattr(tls, "_stamp", lambda paths: looks.append(paths) or stamp(paths))
    for _ in range(10):
        tls_context(ca=str(path))
    assert looks == []
    clock.now += tls._CHECK_SECONDS
    for _ in range(10):
        tls_context(ca=str(path))
    assert looks == [(str(path),)]


def test_files_in_the_middle_of_being_replaced(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    ca_file(path)
    first = tls_context(ca=str(path))
    path.write_text("half of one")
    clock.now += tls._CHECK_SECONDS
    assert tls_context(ca=str(path)) is first
    ca_file(path)
    clock.now += tls._CHECK_SECONDS
    second = tls_context(ca=str(path))
    assert second is not first
    path.unlink()
    clock.now += tls._CHECK_SECONDS
    assert tls_context(ca=str(path)) is second
    clock.now += tls._GRACE_SECONDS
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match="cannot load TLS certificates"):
            tls_context(ca=str(path))
    ca_file(path)
    assert tls_context(ca=str(path)) not in {first, second}


def test_files_that_cannot_be_loaded_at_all(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match="cannot load TLS certificates"):
            tls_context(ca=str(tmp_path / "ca.pem"))


async def test_rotation_while_a_pool_is_in_use(clock: Clock, tmp_path: Path) -> None:
    """Server and client change their authorities; the pool is the same, its connections are not."""
    ca, cert, key = tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key"
    seen: list[str] = []

    async def noting(connection: PeerConnection) -> None:
        issuer = connection.transport.get_extra_info("peercert")["subject"][-1][0][1]
        seen.append(issuer)
        await answering(connection)

    def issue(name: str, authority: trustme.CA) -> None:
        leaf = authority.issue_cert(common_name=name)
        replace(cert, leaf.cert_chain_pems[0].write_to_path)
        replace(key, leaf.private_key_pem.write_to_path)
        replace(ca, authority.cert_pem.write_to_path)

    old, new = trustme.CA(), trustme.CA()
    issue("old", old)
    connector = Connector(ca=ca, cert=(str(cert), str(key)))
    async with (
        ScriptedPeer(noting, tls=server(old, old)) as before,
        ScriptedPeer(noting, tls=server(new, new)) as after,
    ):
        pools = [Pool(peer.origin, connect=connector, connections=2) for peer in (before, after)]
        assert (await fetch(pools[0])).status_code == 200
        assert isinstance((await fetch(pools[1])).error, TLSError)
        issue("new", new)
        clock.now += tls._CHECK_SECONDS
        assert (await fetch(pools[0])).status_code == 200, "the connection that exists serves on"
        assert (await fetch(pools[1])).status_code == 200
        assert seen == ["old", "new"]
        assert (await fetch(pools[0], reset=True)).status_code == 200
        assert isinstance((await fetch(pools[0])).error, TLSError), "the old authority is trusted no more"
        for pool in pools:
            await pool.close()
        before.errors.clear()
        after.errors.clear()


# -- sessions --------------------------------------------------------------------------------------------


async def test_sessions_stay_with_their_context(clock: Clock, tmp_path: Path) -> None:
    authority = ca_file(tmp_path / "ca.pem")
    ca = str(tmp_path / "ca.pem")
    reused: list[bool] = []

    async def noting(connection: PeerConnection) -> None:
        reused.append(connection.transport.get_extra_info("ssl_object").session_reused)
        await answering(connection)

    async def connect(**options: Any) -> bool:
        async with Client(peer.origin, connect=options) as client:
            record = await fetch(client)
            assert record.status_code == 200, record.error
        return reused[-1]

    async with ScriptedPeer(noting, tls=server(authority)) as peer:
        assert not await connect(verify=False)
        assert await connect(verify=False)
        assert not await connect(ca=ca), "what nobody verified is not taken for verified"
        assert await connect(ca=ca)
        assert await connect(ca=ca, transport="loop"), "whoever encrypts"
        replace(tmp_path / "ca.pem", authority.cert_pem.write_to_path)
        clock.now += tls._CHECK_SECONDS
        assert not await connect(ca=ca), "a renewed context starts anew"
        assert await connect(ca=ca)


async def test_a_session_per_name_and_a_bounded_number() -> None:
    context = tls_context(verify=False, max_cached_sessions=2)
    session: Any = object()
    for name in ("a", "b", "a", "c"):
        context.remember(name, session)  # type: ignore[attr-defined]
    assert list(context._sessions) == ["a", "c"]  # type: ignore[attr-defined]
    context.remember("d", None)  # type: ignore[attr-defined]
    assert list(context._sessions) == ["a", "c"]  # type: ignore[attr-defined]
