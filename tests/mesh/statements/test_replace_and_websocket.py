"""One app after another in the same worker, and WebSockets through the mesh."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import dodici
from dodici import WebSocketClosedError, WebSocketError
from dodici.testing import pattern

from .kit import Mesh, OrderError, frozen, kill, within

ORIGIN = "http://api.local"


@pytest.mark.statement(66)
async def test_replacing_the_app_under_load_mixes_nothing(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    await desk.call("replace", label="A")
    answers: Counter[str] = Counter()
    stop = False

    async def caller() -> None:
        while not stop:
            answers[await mesh.outcome(f"{ORIGIN}/slowly")] += 1

    callers = [asyncio.ensure_future(caller()) for _ in range(50)]
    for label in "BCDE":
        at_least = answers.total() + 200
        while answers.total() < at_least:
            await asyncio.sleep(0)
        await desk.call("replace", label=label)
        assert await mesh.text(f"{ORIGIN}/label") == label
    stop = True
    await within(asyncio.gather(*callers), "the callers")
    assert set(answers) == {"AAA", "BBB", "CCC", "DDD", "EEE"} - ({"EEE"} - set(answers)), answers


@pytest.mark.statement(66)
async def test_the_old_app_shuts_down_after_its_last_request(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    await desk.call("replace", label="A")
    held = mesh.send(ORIGIN, "/gated?parts=2&token=held")
    await desk.call("set", name="held:head")
    await desk.call("set", name="held:0")
    await held.received(7)
    await desk.call("replace", label="B")
    assert await mesh.text(f"{ORIGIN}/label") == "B"
    assert await desk.call("shutdowns", label="A") == 0
    await desk.call("set", name="held:1")
    assert (await held.wait()).body == b"part-0;part-1;"
    await desk.heard("shutdown:A")
    assert await desk.call("shutdowns", label="A") == 1
    assert await desk.call("shutdowns", label="B") == 0
    assert await mesh.text(f"{ORIGIN}/label") == "B"


@pytest.mark.statement(66)
async def test_replace_server_needs_its_argument(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    with pytest.raises(OrderError) as caught:
        await desk.call("replace_without_argument")
    assert caught.value.kind == "TypeError"
    assert await mesh.text(f"{ORIGIN}/label") == "plain"


@pytest.mark.statement(66)
async def test_an_app_that_is_taken_away_goes_even_if_a_client_is_silent(brisk: Mesh) -> None:
    [worker] = await brisk.start("api")
    [client] = await brisk.start("client")
    desk = await brisk.desk(worker)
    with frozen(client.pid):
        with pytest.raises(OrderError) as caught:
            await desk.call("replace", label=None)
        assert caught.value.kind == "MeshTimeoutError"
        assert str(client.pid) in caught.value.text
        assert await brisk.outcome(f"{ORIGIN}/label") == "!NoTargetError"
        await desk.heard("shutdown:plain")
    await desk.call("replace", label="B")
    assert await brisk.text(f"{ORIGIN}/label") == "B"


# -------------------------------------------------------------------------------------------- WebSockets


@pytest.mark.statement(67)
async def test_text_and_binary_arrive_as_they_were_sent(mesh: Mesh) -> None:
    await mesh.start("api")
    socket = await dodici.websocket("ws://api.local/ws", dispatcher=mesh.agent, subprotocols=["chat", "b"])
    async with socket:
        assert socket.subprotocol == "chat"
        for message in ("text", "", "\u00e9\U0001f600", b"", b"\x00\xff", b"x" * 300_000):
            await socket.send(message)
            answer = await within(socket.receive(), "the echo")
            assert (type(answer), answer) == (type(message), message)


@pytest.mark.statement(67)
async def test_messages_of_a_mebibyte_under_back_pressure(mesh: Mesh) -> None:
    await mesh.start("api")
    message = pattern(1 << 20)
    async with await dodici.websocket("ws://api.local/ws", dispatcher=mesh.agent) as socket:

        async def send() -> None:
            for _ in range(16):
                await socket.send(message)

        sending = asyncio.ensure_future(send())
        # Nobody reads: the app stops reading, too, and so the sender waits.
        for _ in range(200):
            await asyncio.sleep(0)
        assert await mesh.text(f"{ORIGIN}/label") == "plain"
        assert not sending.done()
        for _ in range(16):
            assert await within(socket.receive(), "a message") == message
        await within(sending, "the sender")


@pytest.mark.statement(67)
async def test_an_open_socket_stays_on_a_paused_worker_and_new_ones_go_elsewhere(mesh: Mesh) -> None:
    one, two = await mesh.start("api", 2)
    first = await dodici.websocket("ws://api.local/ws", dispatcher=mesh.agent)
    async with first:
        await first.send("pid")
        pid = await within(first.receive(), "the pid")
        paused, other = (one, two) if pid == str(one.pid) else (two, one)
        await mesh.interceptor.pause_worker(paused)
        for _ in range(3):
            async with await dodici.websocket("ws://api.local/ws", dispatcher=mesh.agent) as newer:
                await newer.send("pid")
                assert await within(newer.receive(), "the pid") == str(other.pid)
        await first.send("still there")
        assert await within(first.receive(), "the echo") == "still there"


@pytest.mark.statement(67)
async def test_close_codes_and_reasons_cross(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    socket = await dodici.websocket("ws://api.local/ws", dispatcher=mesh.agent)
    await socket.send("close")
    with pytest.raises(WebSocketClosedError):
        await within(socket.receive(), "the close")
    assert (socket.close_code, socket.close_reason) == (4001, "as asked")
    socket = await dodici.websocket("ws://api.local/ws", dispatcher=mesh.agent)
    await socket.close(4002, "enough")
    await desk.seen("ws:closed:4002:enough")


@pytest.mark.statement(67)
async def test_a_refusal_is_a_403(mesh: Mesh) -> None:
    await mesh.start("api")
    with pytest.raises(WebSocketError) as caught:
        await dodici.websocket("ws://api.local/ws/refused", dispatcher=mesh.agent)
    assert caught.value.status_code == 403
    with pytest.raises(dodici.NoTargetError):
        await dodici.websocket("ws://nobody.local/ws", dispatcher=mesh.agent)
    assert await mesh.text(f"{ORIGIN}/label") == "plain"


@pytest.mark.statement(67)
async def test_a_drain_waits_for_sockets_and_then_closes_them(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    socket = await dodici.websocket("ws://api.local/ws", dispatcher=mesh.agent)
    await socket.send("before")
    assert await within(socket.receive(), "the echo") == "before"
    closing = desk.give("close", drain_timeout=0.5)
    await mesh.applied(lambda snapshot: "api" not in snapshot.routes)
    await socket.send("during")
    assert await within(socket.receive(), "the echo") == "during"
    assert not closing.done()
    with pytest.raises(WebSocketClosedError):
        await within(socket.receive(), "the close")
    assert socket.close_code in {1012, 1006}
    assert await within(worker.wait(), "the worker's end") == 0


@pytest.mark.statement(67)
async def test_a_drain_ends_when_the_last_socket_is_closed(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    socket = await dodici.websocket("ws://api.local/ws", dispatcher=mesh.agent)
    closing = desk.give("close", drain_timeout=30.0)
    await mesh.applied(lambda snapshot: "api" not in snapshot.routes)
    await socket.close()
    await within(closing, "close()", 5.0)
    assert await within(worker.wait(), "the worker's end") == 0


@pytest.mark.statement(67)
async def test_a_crash_is_1006(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    socket = await dodici.websocket("ws://api.local/ws", dispatcher=mesh.agent)
    kill(worker.pid)
    with pytest.raises(WebSocketClosedError):
        await within(socket.receive(), "the loss", 2.0)
    assert socket.close_code == 1006
