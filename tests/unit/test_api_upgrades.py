"""upgrade() and connect(): a socket, or an error that says why not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.api_kit import HOLD, START, FakeDispatcher, data, end, fail, head, info, turns, upgraded

import dodici
from dodici.core.errors import InvalidArgumentError, RequestAbortedError, SocketError

URL = "http://h/chat"


class FakeSocket:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


async def test_upgrade() -> None:
    socket = FakeSocket()
    seen: list[int] = []
    fake = FakeDispatcher([START, info(103), upgraded(101, {"upgrade": "websocket"}, socket)])
    result = await fake.upgrade(
        URL,
        params={"a": 1},
        headers={"sec-websocket-key": "x"},
        auth=("u", "p"),
        timeout=3,
        on_info=lambda status, _: seen.append(status),
    )
    assert (result.status_code, result.headers["upgrade"], result.socket) == (101, "websocket", socket)
    _, taken, status = result
    assert (taken, status, seen) == (socket, 101, [103])
    options = fake.options
    assert (options.upgrade, options.method, options.path, options.timeout) == (
        "websocket",
        "GET",
        "/chat?a=1",
        3,
    )
    assert options.fields["authorization"] == "Basic dTpw"
    assert not socket.aborted


async def test_upgrade_to_something_else() -> None:
    fake = FakeDispatcher([START, upgraded(101, {}, FakeSocket())], origin="http://h")
    await dodici.upgrade("/x", "foo/1", method="POST", dispatcher=fake)
    assert (fake.options.upgrade, fake.options.method) == ("foo/1", "POST")
    for protocol in ("", "a\r\nb", None):
        if protocol is None:
            continue
        with pytest.raises(InvalidArgumentError, match="upgrade"):
            await fake.upgrade("/x", protocol=protocol)


async def test_a_server_that_does_not_upgrade() -> None:
    fake = FakeDispatcher([START, head(200, {"x": "y"}), data(b"no"), HOLD])
    with pytest.raises(SocketError, match="bad upgrade: the server answered 200 OK") as caught:
        await fake.upgrade(URL)
    assert caught.value.status_code == 200
    assert caught.value.headers["x"] == "y"  # type: ignore[attr-defined]
    assert fake.plays[0].exchange.aborted


async def test_errors() -> None:
    for script in ([fail(SocketError("gone"))], [START, fail(SocketError("gone"))]):
        with pytest.raises(SocketError, match="gone"):
            await FakeDispatcher(script).upgrade(URL)
    with pytest.raises(RequestAbortedError):
        await FakeDispatcher([START, end()]).upgrade(URL)


async def test_connect() -> None:
    socket = FakeSocket()
    fake = FakeDispatcher([START, upgraded(200, {"via": "p"}, socket)])
    result = await fake.connect(
        "http://proxy:3128", path="example.com:443", headers={"proxy-authorization": "x"}
    )
    assert (result.status_code, result.headers["via"], result.socket) == (200, "p", socket)
    options = fake.options
    assert (options.method, options.origin, options.path) == (
        "CONNECT",
        "http://proxy:3128",
        "example.com:443",
    )
    own = FakeDispatcher([START, upgraded(200, {}, socket)], origin="http://proxy:3128")
    await dodici.connect("/", "example.com:443", dispatcher=own)
    assert own.options.path == "example.com:443"


async def test_a_proxy_that_refuses() -> None:
    fake = FakeDispatcher([START, head(403, {}, "Forbidden"), data(b"no"), end()])
    with pytest.raises(
        SocketError, match="CONNECT to h:1 refused: the server answered 403 Forbidden"
    ) as caught:
        await fake.connect("http://proxy", path="h:1")
    assert caught.value.status_code == 403


async def test_connect_refuses_arguments() -> None:
    fake = FakeDispatcher()
    for path in ("h", "", "h:1/x", None):
        with pytest.raises(InvalidArgumentError):
            await fake.connect("http://proxy", path=path)
    with pytest.raises(TypeError):
        await fake.connect("http://proxy")
    assert not fake.plays


@pytest.mark.parametrize("early", [True, False])
async def test_cancelled_after_any_number_of_turns(early: bool) -> None:
    outcomes = set()
    for count in range(12):
        socket = FakeSocket()
        fake = FakeDispatcher([START, info(103), upgraded(101, {}, socket)], early=early)
        task = asyncio.ensure_future(fake.upgrade(URL))
        await turns(count)
        task.cancel()
        await asyncio.wait([task])
        await turns(6)
        outcomes.add(task.cancelled())
        if task.cancelled() and fake.plays:
            play = fake.plays[0]
            assert play.exchange.done
            assert play.exchange.aborted or socket.aborted, count
        elif not task.cancelled():
            assert not socket.aborted
    assert outcomes == {True, False}


async def test_a_socket_that_comes_too_late_is_closed() -> None:
    socket = FakeSocket()
    fake = FakeDispatcher([START, HOLD])
    task = asyncio.ensure_future(fake.upgrade(URL))
    await turns()
    exchange: Any = fake.plays[0].exchange
    exchange.handler.on_request_upgrade(exchange, 101, dodici.Headers(), socket)
    task.cancel()
    await asyncio.wait([task])
    assert socket.aborted

    late = FakeSocket()
    exchange.handler.on_request_upgrade(exchange, 101, dodici.Headers(), late)
    assert late.aborted
