"""Interceptors against aiohttp.web: its redirects, its compression, its ranges and validators."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

import dodici
from dodici.interceptors import decompress, redirect, response_error, retry
from dodici.testing import RecordingHandler

pytestmark = pytest.mark.interop
CONTENT = os.urandom(3_000_000)


class Files:
    """Serves a file with ranges, and cuts the first `cuts` answers off in the middle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cuts = 0
        self.ranges: list[str | None] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.ranges.append(request.headers.get("range"))
        if self.cuts == 0:
            return web.FileResponse(self.path)
        self.cuts -= 1
        # What FileResponse would send, less the end.
        status = self.path.stat()
        first = request.http_range.start or 0
        response = web.StreamResponse(status=206 if first else 200)
        response.etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        response.content_length = status.st_size - first
        if first:
            response.headers["content-range"] = f"bytes {first}-{status.st_size - 1}/{status.st_size}"
        await response.prepare(request)
        await response.write(CONTENT[first : first + 1_000_000])
        assert request.transport is not None
        request.transport.close()
        return response


@pytest_asyncio.fixture
async def files(tmp_path: Path) -> Files:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return Files(path)


@pytest_asyncio.fixture
async def origin(files: Files) -> AsyncIterator[str]:
    async def hop(request: web.Request) -> web.Response:
        left = int(request.match_info["left"])
        raise web.HTTPFound(f"/hop/{left - 1}" if left else "/compressed")

    async def compressed(request: web.Request) -> web.Response:
        response = web.json_response(
            {"encoding": request.headers.get("accept-encoding"), "text": "ciao " * 1000}
        )
        response.enable_compression(web.ContentCoding(request.query.get("coding", "gzip")))
        return response

    async def missing(request: web.Request) -> web.Response:
        return web.json_response({"why": "gone"}, status=404)

    app = web.Application()
    app.router.add_get("/file", files.serve)
    app.router.add_get("/hop/{left}", hop)
    app.router.add_get("/compressed", compressed)
    app.router.add_get("/missing", missing)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def send(origin: str, path: str, *interceptors: object) -> RecordingHandler:
    async with dodici.Agent() as agent:
        recorder = RecordingHandler()
        recorder.dispatch(agent.compose(interceptors), {"origin": origin, "path": path})
        return await recorder.wait()


async def test_a_download_goes_on_by_range(origin: str, files: Files) -> None:
    files.cuts = 2
    recorder = await send(origin, "/file", retry(min_timeout=0.01))
    assert recorder.error is None
    assert recorder.body == CONTENT
    size = len(CONTENT)
    assert files.ranges == [None, f"bytes=1000000-{size - 1}", f"bytes=2000000-{size - 1}"]


async def test_a_file_that_changed_is_not_appended(origin: str, files: Files) -> None:
    files.cuts = 1

    def change(*_: object) -> None:
        os.utime(files.path, (1, 1))

    async with dodici.Agent() as agent:
        recorder = RecordingHandler(on_response_start=change)
        recorder.dispatch(agent.compose(retry(min_timeout=0.01)), {"origin": origin, "path": "/file"})
        await recorder.wait()
    assert isinstance(recorder.error, dodici.RequestRetryError)
    assert recorder.error.status_code == 412
    assert recorder.body == CONTENT[:1_000_000]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compression(origin: str, coding: str) -> None:
    recorder = await send(origin, f"/compressed?coding={coding}", decompress())
    assert b"ciao ciao" in recorder.body
    assert b"gzip, deflate" in recorder.body


async def test_redirects_to_something_compressed(origin: str) -> None:
    recorder = await send(origin, "/hop/5", decompress(), retry(), redirect(), response_error())
    assert b"ciao ciao" in recorder.body
    assert recorder.contexts[0]["history"][-1] == f"{origin}/compressed"


async def test_an_error_response(origin: str) -> None:
    recorder = await send(origin, "/missing", decompress(), retry(), redirect(), response_error())
    assert isinstance(recorder.error, dodici.ResponseError)
    assert recorder.error.body == {"why": "gone"}
