"""multipart/form-data, byte for byte."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from dodici.api.multipart import PIECE, encode
from dodici.api.prepare import prepare
from dodici.core.errors import InvalidArgumentError
from dodici.core.options import ASYNC_ITERABLE, BYTES, ITERABLE


async def collect(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    if hasattr(body, "__aiter__"):
        return b"".join([piece async for piece in body])
    return b"".join(body)


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\r\n" for text in texts).encode("utf-8")


async def test_fields_and_files_exactly() -> None:
    encoded = encode(
        {"a": "1", "list": ["x", "ü"], "none": None, "n": 2, "yes": True, "raw": b"\x00\xff"},
        {"f": ("näme.txt", "text"), "g": b"bytes"},
        boundary="B",
    )
    expected = (
        lines("--B", 'content-disposition: form-data; name="a"', "", "1")
        + lines("--B", 'content-disposition: form-data; name="list"', "", "x")
        + lines("--B", 'content-disposition: form-data; name="list"', "", "ü")
        + lines("--B", 'content-disposition: form-data; name="n"', "", "2")
        + lines("--B", 'content-disposition: form-data; name="yes"', "", "true")
        + lines("--B", 'content-disposition: form-data; name="raw"', "")
        + b"\x00\xff\r\n"
        + lines(
            "--B",
            'content-disposition: form-data; name="f"; filename="näme.txt"',
            "content-type: text/plain",
            "",
            "text",
        )
        + lines(
            "--B",
            'content-disposition: form-data; name="g"; filename="g"',
            "content-type: application/octet-stream",
            "",
            "bytes",
        )
        + lines("--B--")
    )
    assert encoded.body == expected
    assert encoded.length == len(expected)
    assert encoded.content_type == "multipart/form-data; boundary=B"


async def test_names_are_escaped() -> None:
    encoded = encode({'a"b\r\nc': "v"}, {'f"': ('x"\r\ny%22.bin', b"")}, boundary="B")
    assert encoded.body == (
        lines("--B", 'content-disposition: form-data; name="a%22b%0D%0Ac"', "", "v")
        + lines(
            "--B",
            'content-disposition: form-data; name="f%22"; filename="x%22%0D%0Ay%22.bin"',
            "content-type: application/octet-stream",
            "",
            "",
        )
        + lines("--B--")
    )


async def test_tuples() -> None:
    encoded = encode(
        None,
        [
            ("a", ("a.html", b"1", "text/x", {"X-Part": "yes"})),
            ("a", (None, b"2")),
            ("a", (None, b"3", "text/y")),
            ("a", (PurePosixPath("/tmp/p.json"), b"4")),
            ("a", ("n", b"5", None, {"content-type": "text/z"})),
        ],
        boundary="B",
    )
    assert encoded.body == (
        lines(
            "--B",
            'content-disposition: form-data; name="a"; filename="a.html"',
            "content-type: text/x",
            "X-Part: yes",
            "",
            "1",
        )
        + lines("--B", 'content-disposition: form-data; name="a"', "", "2")
        + lines("--B", 'content-disposition: form-data; name="a"', "content-type: text/y", "", "3")
        + lines(
            "--B",
            'content-disposition: form-data; name="a"; filename="p.json"',
            "content-type: application/json",
            "",
            "4",
        )
        + lines(
            "--B", 'content-disposition: form-data; name="a"; filename="n"', "content-type: text/z", "", "5"
        )
        + lines("--B--")
    )


async def test_nothing() -> None:
    assert encode(boundary="B").body == b"--B--\r\n"
    assert prepare(None, "http://h/", None, files={}).payload is not None


async def test_file_is_streamed_from_where_it_stands(tmp_path: Path) -> None:
    content = os.urandom(3 * PIECE + 17)
    path = tmp_path / "big.bin"
    path.write_bytes(content)
    with path.open("rb") as file:
        file.seek(5)
        encoded = encode({"a": "1"}, {"f": file}, boundary="B")
        threads = set()
        read = file.read

        class Watched:
            name = file.name
            tell, seek = file.tell, file.seek

            def read(self, size: int) -> bytes:
                threads.add(threading.get_ident())
                return read(size)

        watched = encode({"a": "1"}, {"f": Watched()}, boundary="B")
        pieces = [piece async for piece in watched.body]
        assert max(map(len, pieces)) <= PIECE
        assert threading.get_ident() not in threads
        whole = b"".join(pieces)
        assert whole == (
            lines("--B", 'content-disposition: form-data; name="a"', "", "1")
            + lines(
                "--B",
                'content-disposition: form-data; name="f"; filename="big.bin"',
                "content-type: application/octet-stream",
                "",
            )
            + content[5:]
            + b"\r\n--B--\r\n"
        )
        assert encoded.length == watched.length == len(whole)
        assert not file.closed


async def test_a_file_that_grows_sends_what_was_promised() -> None:
    file = io.BytesIO(b"123")
    encoded = encode(None, {"f": file}, boundary="B")
    file.getbuffer()
    file.seek(0, io.SEEK_END)
    file.write(b"456")
    file.seek(0)
    body = await collect(encoded.body)
    assert b"\r\n123\r\n" in body
    assert len(body) == encoded.length


async def test_unknown_lengths_are_chunked() -> None:
    async def source() -> Any:
        yield b"async"

    class Pipe:
        def __init__(self) -> None:
            self.left = [b"from ", b"a pipe"]

        def read(self, size: int) -> bytes:
            return self.left.pop(0) if self.left else b""

    options = prepare(
        None, "http://h/", None, files={"a": source(), "b": (None, [b"it", b"er"]), "c": Pipe()}
    )
    assert options.content_length is None
    assert options.body_kind == ASYNC_ITERABLE
    body = await collect(options.body)
    assert b"\r\n\r\nasync\r\n" in body
    assert b"\r\n\r\niter\r\n" in body
    assert b"\r\n\r\nfrom a pipe\r\n" in body


async def test_sources_are_closed_when_the_exchange_ends_early() -> None:
    closed = []

    async def source() -> Any:
        try:
            yield b"1"
            yield b"2"
        finally:
            closed.append("async")

    def plain() -> Any:
        try:
            yield b"1"
        finally:
            closed.append("plain")

    file = io.BytesIO(b"x")
    used = plain()
    next(used)
    encoded = encode(None, [("a", source()), ("b", used), ("c", file)], boundary="B")
    pieces = aiter(encoded.body)
    assert [await anext(pieces), await anext(pieces)][1] == b"1"
    await pieces.aclose()
    await encoded.body.aclose()
    assert closed == ["async", "plain"]
    assert not file.closed


async def test_in_a_request() -> None:
    options = prepare(None, "http://h/", None, files={"f": io.BytesIO(b"data")}, data={"a": "1"})
    body = await collect(options.body)
    assert options.method == "POST"
    assert options.content_length == len(body)
    boundary = options.fields["content-type"].partition("boundary=")[2]
    assert len(boundary) == 32
    assert body.count(boundary.encode()) == 3
    again = prepare(None, "http://h/", None, files={"f": b"data"}, form={"a": "1"})
    assert again.body_kind == BYTES
    assert again.fields["content-type"].partition("boundary=")[2] != boundary


async def test_large_parts_in_memory_are_not_copied() -> None:
    part = bytes(2 * 1024 * 1024)
    options = prepare(None, "http://h/", None, files={"f": part})
    assert options.body_kind == ITERABLE
    assert options.replayable
    assert any(piece is part for piece in options.body)
    assert options.content_length == sum(map(len, options.body))


def test_own_boundary() -> None:
    options = prepare(
        None,
        "http://h/",
        None,
        files={"f": b""},
        headers={"content-type": 'multipart/form-data; boundary="my=own"'},
    )
    assert options.payload is not None
    assert bytes(options.payload).startswith(b"--my=own\r\n")
    with pytest.raises(InvalidArgumentError, match="boundary"):
        prepare(None, "http://h/", None, files={"f": b""}, headers={"content-type": "multipart/form-data"})
    assert encode(boundary="a?b").content_type == 'multipart/form-data; boundary="a?b"'


@pytest.mark.parametrize(
    ("fields", "files", "message"),
    [
        ({"a": object()}, None, "form value of 'a'"),
        ({1: "a"}, None, "name of a field must be a str"),
        (3, None, "form must be a mapping"),
        (None, b"x", "files must be a mapping"),
        (None, {"f": 3}, "'f' must be bytes"),
        (None, {"f": {"a": 1}}, "'f' must be bytes"),
        (None, {"f": ("a",)}, "filename, content"),
        (None, {"f": ("a", b"", "t", {}, 5)}, "filename, content"),
        (None, {"f": (3, b"")}, "file name of 'f'"),
        (None, {"f": io.StringIO("x")}, "mode 'rb'"),
        (None, {"f": ("a", b"", "text/plain\r\nx: y")}, "control"),
        (None, {"f": ("a", b"", None, {"x": "y\nz"})}, "control"),
        (None, {"f": ("a", b"", None, {"content-disposition": "x"})}, "content-disposition"),
        (None, {"\ud800": b""}, "UTF-8"),
    ],
)
def test_refused(fields: Any, files: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        encode(fields, files)


@pytest.mark.parametrize("boundary", ["", "x" * 71, "a\r\nb", "é", 'a"b', "a b"])
def test_bad_boundaries(boundary: str) -> None:
    with pytest.raises(InvalidArgumentError, match="boundary"):
        encode(boundary=boundary)
