"""nghttpd: the same library behind other limits, with odd windows, padding, trailers and pushes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.interop.h2_kit import MODES, UPLOAD, client, good, pausing, streamed
from tests.peers.h2_peers import MEBIBYTE, Nghttpd
from tests.peers.kit import Events, fetch, send

import dodici
from dodici.testing import RecordingHandler, pattern

pytestmark = pytest.mark.interop


@pytest.fixture
def nghttpd_with(tmp_path: Path, certificate: tuple[str, str]) -> Iterator[Callable[..., Nghttpd]]:
    """Starts an nghttpd with these options."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(Nghttpd(tmp_path / "nghttpd", certificate, options))


async def conversation(one: Any, size: int = 300_000) -> None:
    """A download, uploads of that size and a little of both at once."""
    assert (await good(one, "/1m")).body == pattern(MEBIBYTE)
    assert (await good(one, "/x", method="POST", body=pattern(size))).body == pattern(size)
    assert (await good(one, "/x", method="POST", body=streamed(size))).body == pattern(size)
    downs = [send(one, "/1m") for _ in range(3)]
    ups = [send(one, "/x", method="PUT", body=pattern(size)) for _ in range(3)]
    for recorder in downs:
        assert (await recorder.wait(20)).body == pattern(MEBIBYTE)
    for recorder in ups:
        assert (await recorder.wait(20)).body == pattern(size)


@pytest.mark.parametrize("mode", MODES)
async def test_conversation(nghttpd: Nghttpd, ca: str, mode: str) -> None:
    async with client(nghttpd, mode, ca) as one:
        await conversation(one)
        recorder = await good(one, "/small", method="HEAD")
        assert (recorder.body, recorder.headers["content-length"]) == (b"", "5")  # type: ignore[index]
        assert (await fetch(one, "/no-such-file")).status_code == 404


@pytest.mark.parametrize(
    "options",
    ["-b 200", "-c 0", "--encoder-header-table-size=0", "--no-content-length", "-n 2", "--no-rfc7540-pri"],
)
async def test_options(nghttpd_with: Any, ca: str, options: str) -> None:
    server = nghttpd_with(*options.split())
    async with client(server, "tls", ca) as one:
        await conversation(one)


@pytest.mark.parametrize(("bits", "connection", "size"), [(1, 16, 500), (5, 17, 20_000), (30, 30, 300_000)])
@pytest.mark.parametrize("mode", MODES)
async def test_its_windows(
    nghttpd_with: Any, ca: str, mode: str, bits: int, connection: int, size: int
) -> None:
    """Windows of 2**N - 1 bytes."""
    server = nghttpd_with("-w", str(bits), "-W", str(connection))
    async with client(server, mode, ca) as one:
        await conversation(one, size)


async def test_a_window_that_never_opens(nghttpd_with: Any, ca: str) -> None:
    server = nghttpd_with("-w", "0")
    async with client(server, "tls", ca, headers_timeout=0.3) as one:
        assert (await good(one, "/1m")).body == pattern(MEBIBYTE)
        for body in (b"x", streamed(300_000)):
            recorder = await fetch(one, "/x", method="POST", body=body)
            assert isinstance(recorder.error, dodici.HeadersTimeoutError)
        assert (await good(one, "/x", method="POST", body=b"")).status_code == 200


@pytest.mark.parametrize("window", [1, 333, 65_535, 2**31 - 1])
async def test_our_window(nghttpd: Nghttpd, ca: str, window: int) -> None:
    async with client(nghttpd, "h2c", ca, initial_window_size=window) as one:
        path, size = ("/small", 5) if window == 1 else ("/1m", MEBIBYTE)
        recorder = pausing()
        await send(one, path, recorder).wait(30)
        assert recorder.error is None
        assert recorder.body_size == size


async def test_10_mib_come_back(nghttpd: Nghttpd, ca: str) -> None:
    async with client(nghttpd, "tls", ca) as one:
        recorder = pausing(keep_body=True)
        await send(one, "/x", recorder, method="POST", body=streamed(UPLOAD)).wait(30)
        assert recorder.error is None
        assert recorder.body == pattern(UPLOAD)


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("mode", MODES)
async def test_max_concurrent_streams(nghttpd_with: Any, ca: str, mode: str, streams: int) -> None:
    server = nghttpd_with("-m", str(streams))
    async with client(server, mode, ca) as one:
        events = Events(one)
        recorders = [send(one, "/small") for _ in range(300)]
        for recorder in recorders:
            assert (await recorder.wait(30)).body == b"small"
        assert events.count("connect") == 1


async def test_trailers(nghttpd_with: Any, ca: str) -> None:
    server = nghttpd_with("--trailer", "x-one: 1", "--trailer", "x-two: zwei")
    async with client(server, "tls", ca) as one:
        for _ in range(3):
            recorder = await good(one, "/small")
            assert recorder.body == b"small"
            assert dict(recorder.trailers or {}) == {"x-one": "1", "x-two": "zwei"}


async def test_no_push_comes(nghttpd_with: Any, ca: str) -> None:
    """We say that we want none (RFC 9113 section 8.4), and a push would end the connection."""
    server = nghttpd_with("--push", "/small=/pushed")
    async with client(server, "tls", ca) as one:
        events = Events(one)
        for _ in range(10):
            assert (await good(one, "/small")).body == b"small"
        assert events.names == ["connect"]


async def test_an_early_response(nghttpd_with: Any, ca: str) -> None:
    """An answer that does not wait for the request's body."""
    server = nghttpd_with("--early-response")
    async with client(server, "tls", ca) as one:
        for _ in range(5):
            recorder = await fetch(one, "/small", method="POST", body=pattern(MEBIBYTE))
            assert recorder.error is None, recorder.summary()
            assert recorder.status_code == 200
        assert (await good(one, "/small")).body == b"small"


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_is_killed(nghttpd_with: Any, ca: str, mode: str) -> None:
    server = nghttpd_with()
    async with client(server, mode, ca) as one:
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(one, "/1m", recorder)
        await recorder.reached("on_response_start")
        events = Events(one)
        server.kill()
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.error is None or isinstance(recorder.error, dodici.SocketError)
        await events.wait("disconnect")
        assert isinstance((await fetch(one, "/small")).error, dodici.ConnectionRefused)
