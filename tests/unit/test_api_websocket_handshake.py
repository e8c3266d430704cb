"""The opening handshake: what is asked, which answers are one, and what a refusal tells."""

from __future__ import annotations

import asyncio
import base64
import sys
from typing import Any

import pytest
from tests.unit.api_kit import HOLD, START, FakeDispatcher, data, end, fail, head, upgraded
from tests.unit.websocket_kit import FakeSocket, accept, close, switched, text

import dodici
from dodici import InvalidArgumentError, NotSupportedError, WebSocketClosedError, WebSocketError
from dodici.api import _websocket_handshake as handshake
from dodici.core.headers import Headers
from dodici.core.options import DispatchOptions
from dodici.testing import PeerConnection, ScriptedPeer
from dodici.wire.body import NO_LENGTH
from dodici.wire.h2.hpack import Decoder
from dodici.wire.h2.sections import encode_request


class Channel:
    """A message channel as a mesh hands it over."""

    def __init__(self, *messages: Any, subprotocol: str | None = None) -> None:
        self.subprotocol = subprotocol
        self.headers = Headers({"x": "y"})
        self.close_code: int | None = None
        self.close_reason = ""
        self.messages = list(messages)
        self.sent: list[Any] = []
        self.aborted = False

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def receive(self) -> Any:
        if not self.messages:
            self.close_code = self.close_code or 1000
            raise WebSocketClosedError("closed", close_code=self.close_code)
        return self.messages.pop(0)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.close_code, self.close_reason = self.close_code or code, reason

    def abort(self) -> None:
        self.aborted = True
        self.close_code = self.close_code or 1006


# -- what is asked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("ws://h/x?a=1", "http://h"),
        ("wss://h/x?a=1#f", "https://h"),
        ("http://h/x?a=1", "http://h"),
        ("https://h:8443/x?a=1", "https://h:8443"),
        ("WSS://H:443/x?a=1", "https://h"),
    ],
)
async def test_urls(url: str, origin: str) -> None:
    fake = FakeDispatcher([START, upgraded(200, {}, Channel())])
    await (await dodici.websocket(url, dispatcher=fake)).close()
    options = fake.options
    assert (options.origin, options.path, options.method) == (origin, "/x?a=1", "GET")
    assert options.upgrade == "websocket"


async def test_a_path_alone() -> None:
    fake = FakeDispatcher([START, upgraded(200, {}, Channel())], origin="http://h")
    async with fake.websocket("/chat"):
        pass
    assert (fake.options.origin, fake.options.path) == ("http://h", "/chat")
    for url in ("ws://other/", "wss://h/", "ftp://h/", 5):
        with pytest.raises(InvalidArgumentError):
            await fake.websocket(url)  # type: ignore[arg-type]


async def test_fields() -> None:
    fake = FakeDispatcher([START, upgraded(200, {}, Channel(subprotocol="b"))])
    ws = await fake.websocket(
        "ws://h/",
        subprotocols=["a", "b"],
        headers={"origin": "http://me"},
        auth=("u", "p"),
        timeout=3,
        server_name="other",
    )
    await ws.close()
    options = fake.options
    fields = options.fields
    assert len(base64.b64decode(fields["sec-websocket-key"])) == 16
    assert fields["sec-websocket-version"] == "13"
    assert fields["sec-websocket-extensions"] == "permessage-deflate; client_max_window_bits"
    assert fields["sec-websocket-protocol"] == "a, b"
    assert (fields["origin"], fields["authorization"]) == ("http://me", "Basic dTpw")
    assert (options.timeout, options.server_name) == (3, "other")
    key = fields["sec-websocket-key"]
    await (await fake.websocket("ws://u:p@h/", compression=None, subprotocols=("b",))).close()
    fields = fake.options.fields
    assert fields["sec-websocket-key"] != key
    assert fields["authorization"] == "Basic dTpw"
    assert "sec-websocket-extensions" not in fields


def test_no_key_over_h2() -> None:
    fields, key = handshake.request_fields(None, (), None)
    options = DispatchOptions(origin="https://h", path="/", headers=fields, upgrade="websocket")
    sent = dict(Decoder().decode(encode_request(options, b"https", b"h", NO_LENGTH)[0]))
    assert sent[b":protocol"] == b"websocket"
    assert sent[b"sec-websocket-version"] == b"13"
    assert b"sec-websocket-key" not in sent
    assert options.fields["sec-websocket-key"] == key


@pytest.mark.parametrize(
    "arguments",
    [
        {"subprotocols": "chat"},
        {"subprotocols": [""]},
        {"subprotocols": ["a b"]},
        {"subprotocols": ["ä"]},
        {"subprotocols": [5]},
        {"subprotocols": ["a", "a"]},
        {"compression": "gzip"},
        {"compression": True},
        {"max_message_size": 0},
        {"max_message_size": "1"},
        {"ping_interval": 0},
        {"ping_interval": -1},
        {"ping_timeout": True},
        {"close_timeout": None},
        {"close_timeout": float("nan")},
        {"headers": {"Sec-WebSocket-Key": "x"}},
        {"headers": {"sec-websocket-version": "8"}},
        {"headers": {"sec-websocket-protocol": "a"}},
        {"headers": {"sec-websocket-extensions": "x"}},
        {"headers": {"upgrade": "websocket"}},
        {"auth": "x"},
    ],
    ids=str,
)
async def test_arguments(arguments: dict[str, Any]) -> None:
    fake = FakeDispatcher()
    with pytest.raises(InvalidArgumentError):
        await fake.websocket("ws://h/", **arguments)
    assert not fake.plays


async def test_nothing_happens_before_it_is_awaited() -> None:
    fake = FakeDispatcher([START, upgraded(200, {}, Channel())])
    opening = fake.websocket("ws://h/")
    await asyncio.sleep(0)
    assert not fake.plays
    ws = await asyncio.create_task(opening)
    await ws.close()
    opening = fake.websocket("ws://h/")
    opening.close()
    assert len(fake.plays) == 1


# -- what is answered --------------------------------------------------------------------------------------


async def answered(more: str = "", *, replace: tuple[str, str] = ("", ""), **options: Any) -> Any:
    """The outcome of an answer that is right but for some change, and whether the connection was closed."""
    seen: list[PeerConnection] = []

    async def script(connection: PeerConnection) -> None:
        seen.append(connection)
        request = await connection.read_request()
        good = switched(request, more)
        assert replace[0] in good
        await connection.send(good.replace(*replace) if replace[0] else good)
        await connection.closed()

    async with ScriptedPeer(script) as server, dodici.Client(server.origin) as client:
        try:
            ws = await client.websocket("/", **options)
        except WebSocketError as error:
            await seen[0].closed()
            return error
        result = ws.subprotocol, ws.headers
        ws.abort()
        return result


async def test_a_good_answer() -> None:
    subprotocol, headers = await answered("sec-websocket-protocol: b\r\n", subprotocols=["a", "b"])
    assert (subprotocol, headers["upgrade"]) == ("b", "WebSocket")
    assert (await answered())[0] is None
    assert (await answered("sec-websocket-extensions: permessage-deflate; server_max_window_bits=10\r\n"))[
        0
    ] is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("upgrade: WebSocket", "upgrade: foo", "upgrade field is 'foo'"),
        ("upgrade: WebSocket", "upgrade: websocket, foo", "upgrade field is 'websocket, foo'"),
        ("upgrade: WebSocket\r\n", "", "upgrade field is None"),
        ("connection: keep-alive, Upgrade\r\n", "", "connection field is None"),
        ("connection: keep-alive, Upgrade", "connection: keep-alive", "connection field is 'keep-alive'"),
        ("sec-websocket-accept: ", "sec-websocket-accept: x", "does not belong to the key"),
        ("sec-websocket-accept: ", "x-nothing: ", "accept None does not belong to the key"),
        ("sec-websocket-accept: ", "sec-websocket-accept: x\r\nsec-websocket-accept: ", "does not belong"),
    ],
)
async def test_an_answer_to_something_else(old: str, new: str, says: str) -> None:
    error = await answered(replace=(old, new))
    assert isinstance(error, WebSocketError)
    assert says in str(error)
    assert error.headers is not None


@pytest.mark.parametrize(
    ("more", "options", "says"),
    [
        ("sec-websocket-protocol: c\r\n", {"subprotocols": ["a"]}, "subprotocol 'c' of ['a']"),
        ("sec-websocket-protocol: a\r\n", {}, "subprotocol 'a' of []"),
        ("sec-websocket-protocol: a, b\r\n", {"subprotocols": ["a", "b"]}, "subprotocol 'a, b'"),
        (
            "sec-websocket-protocol: a\r\nsec-websocket-protocol: b\r\n",
            {"subprotocols": ["a", "b"]},
            "subprotocol 'a, b'",
        ),
        ("sec-websocket-extensions: foo\r\n", {}, "extension 'foo'"),
        (
            "sec-websocket-extensions: permessage-deflate\r\n",
            {"compression": None},
            "'permessage-deflate', which",
        ),
        ("sec-websocket-extensions: permessage-deflate, permessage-deflate\r\n", {}, "duplicate"),
        ("sec-websocket-extensions: permessage-deflate; x=1\r\n", {}, "extensions are invalid"),
        (
            "sec-websocket-extensions: permessage-deflate; client_max_window_bits=99\r\n",
            {},
            "extensions are invalid",
        ),
        (
            "sec-websocket-extensions: permessage-deflate; client_max_window_bits=8\r\n",
            {},
            "extensions are invalid",
        ),
        ("sec-websocket-extensions: ;;\r\n", {}, "extensions are invalid"),
    ],
    ids=str,
)
async def test_an_answer_that_was_not_offered(more: str, options: dict[str, Any], says: str) -> None:
    error = await answered(more, **options)
    assert isinstance(error, WebSocketError)
    assert says in str(error)


async def test_a_refusal() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.respond("nö".encode(), 403, "x-why: because\r\n")

    async with ScriptedPeer(script) as server, dodici.Client(server.origin) as client:
        with pytest.raises(WebSocketError, match="refused the WebSocket: it answered 403 Scripted") as caught:
            await client.websocket("/")
    error = caught.value
    assert (error.status_code, error.body) == (403, "nö")
    assert error.headers is not None
    assert error.headers["x-why"] == "because"


async def test_a_refusal_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def long(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send("HTTP/1.1 500 No\r\ncontent-length: 999999\r\n\r\n", b"x" * 6000)
        await connection.closed()

    async def stalled(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send("HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\nsome")
        await connection.closed()

    async def cut(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send("HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\nsome")
        connection.close()

    monkeypatch.setattr(handshake, "_REFUSAL_WAIT", 0.01)
    async with ScriptedPeer([long, stalled, cut]) as server, dodici.Client(server.origin) as client:
        for body in ("x" * 4096, "some", "some"):
            with pytest.raises(WebSocketError) as caught:
                await client.websocket("/")
            assert (caught.value.status_code, caught.value.body) == (500, body)


async def test_a_200_is_a_refusal_too() -> None:
    fake = FakeDispatcher([START, head(200), data(b"hello"), end()])
    with pytest.raises(WebSocketError, match="answered 200 OK") as caught:
        await fake.websocket("ws://h/")
    assert caught.value.body == "hello"


async def test_errors_of_the_exchange() -> None:
    for script in ([fail(dodici.SocketError("gone"))], [START, fail(dodici.SocketError("gone"))]):
        with pytest.raises(dodici.SocketError, match="gone"):
            await FakeDispatcher(script).websocket("ws://h/")


async def test_timeout() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.closed()

    async with ScriptedPeer(script) as server, dodici.Client(server.origin) as client:
        with pytest.raises(dodici.RequestTimeoutError):
            await client.websocket("/", timeout=0.02)


@pytest.mark.parametrize("early", [True, False])
async def test_cancelled_after_any_number_of_turns(early: bool) -> None:
    outcomes = set()
    for count in range(10):
        channel = Channel()
        fake = FakeDispatcher([START, upgraded(200, {}, channel)], early=early)
        task = asyncio.create_task(fake.websocket("ws://h/"))
        for _ in range(count):
            await asyncio.sleep(0)
        task.cancel()
        try:
            ws = await task
        except asyncio.CancelledError:
            outcomes.add("cancelled")
            for _ in range(10):
                await asyncio.sleep(0)
            assert channel.aborted or not fake.plays or fake.plays[0].exchange.aborted
        else:
            outcomes.add("open")
            await ws.close()
    assert outcomes == {"cancelled", "open"}


async def test_cancelled_during_a_refusal() -> None:
    fake = FakeDispatcher([START, head(403), HOLD])
    task = asyncio.create_task(fake.websocket("ws://h/"))
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.plays[0].exchange.aborted


async def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith(("dodici.api._websocket_frames", "dodici.api._websocket_engine")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("dodici.api._websocket_frames", raising=False)
    monkeypatch.setitem(sys.modules, "websockets.protocol", None)
    monkeypatch.setitem(sys.modules, "websockets.exceptions", None)
    socket = FakeSocket()
    socket.transport.protocol = asyncio.Protocol()
    fake = FakeDispatcher([START, upgraded(200, {}, socket)])
    with pytest.raises(NotSupportedError, match=r"pip install 'dodici\[websocket\]'"):
        await fake.websocket("ws://h/")
    assert socket.transport.aborted
    await (await FakeDispatcher([START, upgraded(200, {}, Channel())]).websocket("ws://h/")).close()


# -- channels that carry messages by themselves ------------------------------------------------------------


async def test_a_channel() -> None:
    channel = Channel("a", b"b", subprotocol="x")
    fake = FakeDispatcher([START, upgraded(200, {}, channel)])
    async with fake.websocket("ws://h/", subprotocols=["x"]) as ws:
        assert (ws.subprotocol, ws.headers["x"], ws.close_code) == ("x", "y", None)
        await ws.send("text")
        await ws.send(bytearray(b"binary"))
        await ws.send(["a", "b"])
        await ws.send(iter([b"a", bytearray(b"b")]))
        await ws.send([])
        with pytest.raises(InvalidArgumentError):
            await ws.send(["a", b"b"])
        with pytest.raises(NotSupportedError):
            await ws.ping()
        assert [message async for message in ws] == ["a", b"b"]
    assert channel.sent == ["text", b"binary", "ab", b"ab"]
    assert ws.close_code == 1000


async def test_a_channel_with_a_subprotocol_of_its_own() -> None:
    channel = Channel(subprotocol="z")
    with pytest.raises(WebSocketError, match="'z'"):
        await FakeDispatcher([START, upgraded(200, {}, channel)]).websocket("ws://h/", subprotocols=["x"])
    assert channel.aborted


async def test_a_channel_that_counts_nothing() -> None:
    channel = Channel("ok", "ä" * 6)
    async with FakeDispatcher([START, upgraded(200, {}, channel)]).websocket(
        "ws://h/", max_message_size=11
    ) as ws:
        assert await ws.receive() == "ok"
        with pytest.raises(WebSocketClosedError, match="over 11 bytes"):
            await ws.receive()
    assert ws.close_code == 1009


async def test_a_channel_that_is_told_the_limit() -> None:
    channel: Any = Channel()
    channel.max_message_size = None
    await (
        await FakeDispatcher([START, upgraded(200, {}, channel)]).websocket("ws://h/", max_message_size=11)
    ).close()
    assert channel.max_message_size == 11


async def test_a_channel_that_does_not_close() -> None:
    class Stuck(Channel):
        async def close(self, code: int = 1000, reason: str = "") -> None:
            await asyncio.Event().wait()

    channel = Stuck()
    ws = await FakeDispatcher([START, upgraded(200, {}, channel)]).websocket("ws://h/", close_timeout=0.01)
    await ws.close()
    assert channel.aborted


async def test_the_dispatcher_closes_and_the_websocket_stays() -> None:
    async def script(connection: PeerConnection) -> None:
        request = await connection.read_request()
        assert accept(request)
        await connection.send(switched(request))
        await connection.read_exactly(2 + 4 + 2)
        await connection.send(text("still here"), close())
        await connection.read_exactly(2 + 4 + 2)
        connection.close()

    async with ScriptedPeer(script) as server:
        async with dodici.Client(server.origin) as client:
            ws = await client.websocket("/", ping_interval=None)
        await client.destroy()
        await ws.send("hi")
        assert [message async for message in ws] == ["still here"]
        await ws.close()
