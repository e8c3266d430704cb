"""What must stay small: a paused download, an upload that nobody reads, a pool under ten thousand requests."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator

import psutil
import pytest

from dodici import Pool
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer

MEBIBYTE = 1 << 20
SIZE = 100 * MEBIBYTE

pytestmark = pytest.mark.perf

_SENDER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
while b"\\r\\n\\r\\n" not in connection.recv(65536): pass
piece = bytes(1 << 20)
connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % (100 << 20))
for _ in range(100): connection.sendall(piece)
connection.recv(1)
"""


async def sender() -> tuple[asyncio.subprocess.Process, int]:
    """A process that sends 100 MiB: its memory must not be counted as ours."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SENDER, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    return process, int(await process.stdout.readline())


def memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


async def test_a_paused_download_holds_less_than_two_mebibytes() -> None:
    process, port = await sender()
    released = False
    recorder = RecordingHandler(
        on_response_data=lambda controller, _: None if released else controller.pause(), keep_body=False
    )
    async with Pool(f"http://127.0.0.1:{port}") as pool:
        before = memory()
        recorder.dispatch(pool, {"path": "/"})
        await recorder.reached("on_response_data")
        for _ in range(20):
            await asyncio.sleep(0.01)  # time for anything that should not come
        held = memory() - before
        got = recorder.body_size
        assert got < MEBIBYTE
        assert held < 2 * MEBIBYTE, f"{held / MEBIBYTE:.1f} MiB"
        released = True
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.body_size == SIZE
    process.kill()
    await process.wait()


@pytest.mark.parametrize("streamed", [True, False], ids=["generator", "bytes"])
async def test_an_upload_that_nobody_reads_holds_less_than_two_mebibytes(streamed: bool) -> None:
    piece = bytes(64 * 1024)
    pulled = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal pulled
        for _ in range(SIZE // len(piece)):
            pulled += len(piece)
            yield piece

    whole = bytes(SIZE)
    stalled = asyncio.Event()

    async def silent(connection: PeerConnection) -> None:
        await stalled.wait()

    async with ScriptedPeer(silent) as peer:
        pool = Pool(peer.origin)
        before = memory()
        recorder = RecordingHandler()
        recorder.dispatch(pool, {"path": "/", "method": "POST", "body": source() if streamed else whole})
        last = -1
        while pulled != last or not streamed:
            last = pulled
            await asyncio.sleep(0.05)
            if not streamed:
                break
        held = memory() - before
        # The kernel's socket buffers hold a few MiB on top, in memory that is not ours.
        assert held < 2 * MEBIBYTE, f"{held / MEBIBYTE:.1f} MiB"
        assert pulled < 16 * MEBIBYTE
        await pool.destroy()
        stalled.set()


async def test_ten_thousand_requests_over_a_hundred_connections() -> None:
    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            self.transport.write(answer * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Pool(f"http://127.0.0.1:{port}", connections=100) as pool:

        async def one() -> None:
            response = await pool.request("/")
            assert response.status_code == 200
            assert await response.bytes() == b"ok"

        async def all_of_them() -> int:
            await asyncio.gather(*(one() for _ in range(10_000)))
            stats = pool.stats
            assert (stats.size, stats.queued, stats.running) == (0, 0, 0)
            assert stats.connected <= 100
            gc.collect()
            return len(gc.get_objects())

        await all_of_them()
        second = await all_of_them()
        third = await all_of_them()
        assert third - second < 500, "objects are left behind by every round"
    server.close()
    await server.wait_closed()
