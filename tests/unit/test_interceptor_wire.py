"""Interceptors over real connections: which ones are used again, and what the peer sees."""

from __future__ import annotations

import asyncio
import gzip

import pytest

import dodici
from dodici.core.errors import RequestRetryError, ResponseError
from dodici.interceptors import decompress, dump, redirect, response_error, retry
from dodici.testing import RecordingHandler, ScriptedPeer

FAST = {"min_timeout": 0.001, "jitter": 0}


async def stalling(connection):
    await connection.stall()


async def send(agent, peer, *interceptors, path="/", **options):
    recorder = RecordingHandler()
    recorder.dispatch(agent.compose(*interceptors), {"origin": peer.origin, "path": path, **options})
    return await recorder.wait()


async def test_a_retry_uses_the_connection_again():
    async def script(connection):
        await connection.read_request()
        await connection.respond(b"busy", 503, "retry-after: 0\r\n")
        await connection.read_request()
        await connection.respond(b"done")
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        agent = dodici.Agent()
        recorder = await send(agent, peer, retry(**FAST))
        assert recorder.body == b"done"
        assert len(peer.requests) == 2
        await agent.close()


async def test_a_download_survives_two_resets():
    body = bytes(range(256)) * 4000

    def script(begin, stop):
        async def play(connection):
            request = await connection.read_request()
            if begin:
                assert request.headers["range"] == f"bytes={begin}-{len(body) - 1}"
                assert request.headers["if-match"] == '"x"'
                head = (
                    f'HTTP/1.1 206 Partial\r\ncontent-length: {len(body) - begin}\r\netag: "x"\r\n'
                    f"content-range: bytes {begin}-{len(body) - 1}/{len(body)}\r\n\r\n"
                )
            else:
                head = f'HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\netag: "x"\r\n\r\n'
            await connection.send(head, body[begin:stop])
            if stop < len(body):
                connection.half_close()
            else:
                await connection.stall()

        return play

    async with ScriptedPeer(
        [script(0, 300_000), script(300_000, 700_001), script(700_001, len(body))]
    ) as peer:
        agent = dodici.Agent()
        recorder = await send(agent, peer, retry(**FAST))
        assert recorder.error is None
        assert recorder.body == body
        assert recorder.starts == 1
        await agent.close()


async def test_a_refused_connection_is_tried_again():
    async with ScriptedPeer(stalling) as peer:
        origin = peer.origin
    recorder = RecordingHandler()
    agent = dodici.Agent()
    recorder.dispatch(
        agent.compose(retry(max_retries=2, **FAST)), {"origin": origin, "method": "POST", "body": b"x"}
    )
    await recorder.wait()
    assert isinstance(recorder.error, ConnectionRefusedError)
    assert recorder.error.attempt == 3
    assert recorder.starts == 0
    await agent.close()


async def test_exhausted():
    async def script(connection):
        for _ in range(3):
            await connection.read_request()
            await connection.respond(b"no", 503)
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        agent = dodici.Agent()
        recorder = await send(agent, peer, retry(max_retries=2, **FAST))
        assert isinstance(recorder.error, RequestRetryError)
        assert recorder.error.count == 3
        await agent.close()


async def test_redirects_on_one_connection():
    async def script(connection):
        for _ in range(3):
            request = await connection.read_request()
            await connection.respond(b"moved", 307, f"location: {request.target}x\r\n")
        request = await connection.read_request()
        await connection.respond(request.body)
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        agent = dodici.Agent()
        recorder = await send(agent, peer, redirect(), path="/a", method="POST", body=b"hello")
        assert recorder.body == b"hello"
        assert [request.target for request in peer.requests] == ["/a", "/ax", "/axx", "/axxx"]
        await agent.close()


async def test_a_redirect_with_a_large_body_goes_on_at_once():
    async def first(connection):
        await connection.read_request()
        await connection.send(
            "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 1000000\r\n\r\n", bytes(1000)
        )
        await connection.closed()

    async def second(connection):
        await connection.read_request()
        await connection.respond(b"here")
        await connection.stall()

    async with ScriptedPeer([first, second]) as peer:
        agent = dodici.Agent()
        recorder = await send(agent, peer, redirect())
        assert recorder.body == b"here"
        await agent.close()


async def test_a_client_says_that_it_has_one_origin():
    async def script(connection):
        await connection.read_request()
        await connection.respond(b"", 302, "location: http://other.test/\r\n")
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        client = dodici.Client(peer.origin)
        recorder = await send(client, peer, redirect())
        assert isinstance(recorder.error, dodici.InvalidArgumentError)
        await client.close()


async def test_credentials_do_not_reach_another_origin():
    async def there(connection):
        await connection.read_request()
        await connection.respond(b"here")
        await connection.stall()

    async with ScriptedPeer(there) as other:

        async def here(connection):
            await connection.read_request()
            await connection.respond(b"", 302, f"location: {other.origin}/x\r\n")
            await connection.stall()

        async with ScriptedPeer(here) as peer:
            agent = dodici.Agent()
            headers = {"authorization": "secret", "cookie": "secret", "host": "virtual.test"}
            recorder = await send(agent, peer, redirect(), headers=headers)
            assert recorder.body == b"here"
            assert b"secret" in peer.requests[0].head
            assert b"secret" not in other.requests[0].head
            assert other.requests[0].headers["host"] in other.origin
            await agent.close()


@pytest.mark.parametrize("wanted", [True, False])
async def test_decompress_and_errors(wanted):
    async def script(connection):
        request = await connection.read_request()
        assert "gzip" in request.headers["accept-encoding"]
        body = gzip.compress(b'{"why": 1}')
        status = 200 if wanted else 404
        await connection.respond(body, status, "content-encoding: gzip\r\ncontent-type: application/json\r\n")
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        agent = dodici.Agent()
        recorder = await send(agent, peer, decompress(skip_error_responses=False), response_error())
        if wanted:
            assert recorder.body == b'{"why": 1}'
        else:
            assert isinstance(recorder.error, ResponseError)
            assert recorder.error.body == {"why": 1}
        await agent.close()


async def test_a_paused_download_that_is_decoded_holds_back_the_server():
    plain = bytes(64 * 1024 * 1024)
    coded = gzip.compress(plain, 1)
    # Not coded any smaller, so that the sockets cannot hold it all.
    stored = gzip.compress(coded * 40, 0)

    async def script(connection):
        await connection.read_request()
        await connection.send(
            f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(stored)}\r\n\r\n", stored
        )
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        agent = dodici.Agent()
        recorder = RecordingHandler(keep_body=False)
        recorder.dispatch(agent.compose(decompress()), {"origin": peer.origin})
        await recorder.received(100_000)
        recorder.controller.pause()
        size = recorder.body_size
        await asyncio.sleep(0.05)
        assert recorder.body_size == size
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.error is None
        assert recorder.body_size == len(coded) * 40
        await agent.close()


async def test_dump_gives_the_connection_back_after_an_abort():
    async def script(connection):
        await connection.read_request()
        await connection.respond(b"x" * 1000)
        await connection.read_request()
        await connection.respond(b"y")
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        agent = dodici.Agent()
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.abort("seen"))
        recorder.dispatch(agent.compose(dump()), {"origin": peer.origin})
        await recorder.wait()
        assert str(recorder.error) == "seen"
        recorder = await send(agent, peer)
        assert recorder.body == b"y"
        await agent.close()


async def test_the_total_time_holds_over_attempts():
    async def busy(connection):
        await connection.read_request()
        await connection.respond(b"", 503)
        await connection.read_request()
        await connection.stall()

    async with ScriptedPeer(busy) as peer:
        agent = dodici.Agent()
        recorder = await send(agent, peer, retry(**FAST), timeout=0.2)
        assert isinstance(recorder.error, TimeoutError)
        assert "0.2 s" in str(recorder.error)
        await agent.destroy()


async def test_request_follows_retries_and_decodes():
    async def script(connection):
        await connection.read_request()
        await connection.respond(b"", 302, "location: /x\r\n")
        await connection.read_request()
        await connection.respond(b"", 503)
        await connection.read_request()
        await connection.respond(gzip.compress(b'{"a": 1}'), 200, "content-encoding: gzip\r\n")
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        agent = dodici.Agent()
        composed = agent.compose(decompress(), retry(**FAST), redirect())
        response = await composed.request(peer.origin)
        assert await response.body.json() == {"a": 1}
        await agent.close()
