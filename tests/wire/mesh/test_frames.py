"""The layout: what is fixed, and the payloads that are more than bytes."""

from __future__ import annotations

import pytest

from dodici.core.errors import LinkError
from dodici.wire.mesh import frames as f


def test_a_frame_begins_with_nine_bytes() -> None:
    assert f.FRAME.pack(0x01020304, f.DATA, 0x0A0B0C0D) == b"\x04\x03\x02\x01\x12\x0d\x0c\x0b\x0a"


def test_every_type_with_its_flags_has_a_limit_and_no_other() -> None:
    known = {kind for kind, limit in enumerate(f.LIMITS) if limit >= 0}
    assert known == {
        f.REQUEST, f.REQUEST | f.FINAL, f.REQUEST | f.WEBSOCKET, f.REQ_DATA, f.REQ_END, f.REQ_RESET, f.REQ_CREDIT,
        f.REQ_TEXT, f.REQ_TEXT | f.MORE, f.REQ_BINARY, f.REQ_BINARY | f.MORE, f.REQ_CLOSE,
        f.TRACE,
        f.INFO, f.HEAD, f.HEAD | f.FINAL, f.DATA, f.END, f.RESET, f.CREDIT,
        f.TEXT, f.TEXT | f.MORE, f.BINARY, f.BINARY | f.MORE, f.CLOSE, f.ACCEPT,
        f.HELLO, f.BYE, f.BARRIER, f.BARRIER_ACK,
    }  # fmt: skip
    assert max(f.LIMITS) + f.FRAME.size == f.MAX_FRAME


def test_hello_names_the_member() -> None:
    data = f.hello("wörker")
    assert f.FRAME.unpack_from(data)[1] == f.HELLO
    assert f.read_hello(data[9:]) == "wörker"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "does not speak"),
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak"),
        (f.hello("")[9:-1], "does not speak"),
        (b"dodici mesh\0\x03\x00x", "version 3"),
        (b"dodici mesh\0\x02\x00\xff", "UTF-8"),
    ],
    ids=["empty", "http", "cut", "version", "utf8"],
)
def test_a_wrong_hello(payload: bytes, text: str) -> None:
    with pytest.raises(LinkError, match=text):
        f.read_hello(payload)


def test_a_reset_keeps_its_texts() -> None:
    assert f.read_reset(f.reset(f.APP_ERROR, ("ValueError", "a\0b", "Traceback\n…"))) == (
        f.APP_ERROR,
        ["ValueError", "a\\0b", "Traceback\n…"],
    )
    assert f.read_reset(f.reset(f.REFUSED, ("",))) == (f.REFUSED, [""])


def test_a_long_text_loses_its_beginning_and_a_surrogate_its_nature() -> None:
    payload = f.reset(f.ABORTED, ("name", "x" * 100_000 + "\udcffend"))
    assert len(payload) <= f.MAX_DATA
    kind, texts = f.read_reset(payload)
    assert kind == f.ABORTED
    assert texts[0] == "name"
    assert texts[1].endswith("x\\udcffend")


@pytest.mark.parametrize("payload", [b"", b"\0", b"\x05text"])
def test_a_wrong_reset(payload: bytes) -> None:
    with pytest.raises(LinkError, match="unknown kind"):
        f.read_reset(payload)


def test_a_close_has_a_code_and_a_reason_of_at_most_123_bytes() -> None:
    assert f.read_close(f.close(1000, "")) == (1000, "")
    assert f.read_close(f.close(4999, "ü" * 100)) == (4999, "ü" * 61)
    with pytest.raises(LinkError):
        f.read_close(b"\x01")
