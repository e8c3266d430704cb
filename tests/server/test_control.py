"""The control socket, what is remembered of the output, and the admin address."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server.server_kit import Call

from dodici.core.errors import InvalidArgumentError
from dodici.server import control
from dodici.server.control import (
    ControlClient,
    ControlError,
    ControlServer,
    running,
    socket_name,
    socket_path,
)
from dodici.server.output import KEPT, LINE_LIMIT, Output
from dodici.server.tally import Tally


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


class Commands:
    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.output = Output()
        self.following = asyncio.Event()

    async def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((name, arguments))
        if name == "bad":
            raise InvalidArgumentError("there is no such thing")
        if name == "odd":
            hash(arguments["argument"])
        return {"echo": arguments}

    async def logs(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        yield {"text": "first"}
        yield {"text": "second"}
        if arguments.get("follow"):
            self.following.set()
            await asyncio.Event().wait()


@pytest.fixture
async def server() -> AsyncIterator[ControlServer]:
    made = ControlServer(socket_path("test"), Commands())
    await made.start()
    yield made
    await made.stop()


async def asking(path: Path, ask: Callable[[ControlClient], Any]) -> Any:
    def run() -> Any:
        with ControlClient(path, timeout=5) as client:
            return ask(client)

    return await asyncio.to_thread(run)


async def test_commands_and_their_errors(server: ControlServer) -> None:
    def ask(client: ControlClient) -> Any:
        with pytest.raises(ControlError, match="there is no such thing"):
            client.call("bad")
        return client.call("good", a=1, left_out=None)

    assert await asking(server.path, ask) == {"ok": True, "echo": {"a": 1}}


async def test_server_that_is_stopped_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with (
            ControlClient(tmp_path / "s", timeout=0.05) as client,
            pytest.raises(ControlError, match=r"no answer for 0\.05 s: the server is stopped"),
        ):
            client.call("status")


async def test_lines_and_a_client_that_hangs_up(server: ControlServer) -> None:
    assert await asking(server.path, lambda client: list(client.lines())) == [
        {"text": "first"},
        {"text": "second"},
    ]

    def follow(client: ControlClient) -> Any:
        lines = client.lines(follow=True)
        return next(lines), next(lines)

    assert len(await asking(server.path, follow)) == 2
    await server._commands.following.wait()  # type: ignore[attr-defined]
    while server._tasks:
        await asyncio.sleep(0)


async def test_only_this_user_can_reach_it(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
    monkeypatch.setattr(control, "_is_stranger", lambda peer: True)

    def ask(client: ControlClient) -> None:
        with pytest.raises(ControlError, match="another user's"):
            client.call("good")

    await asking(server.path, ask)
    assert not server._commands.asked  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the system does not tell who a peer is")
@pytest.mark.parametrize(("me", "stranger"), [(0, False), (12345, True)])
def test_peers_user_is_looked_at(me: int, stranger: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        actual = os.getuid()
        monkeypatch.setattr(control.os, "getuid", lambda: actual + me)
        assert control._is_stranger(ours) is (stranger and actual != 0)


async def test_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dodici").mkdir()
    (tmp_path / "dodici").chmod(0o755)
    with pytest.raises(ControlError, match="mode 0700"):
        socket_path("x")


async def test_second_server_of_a_name_and_stale_sockets(server: ControlServer) -> None:
    with pytest.raises(ControlError, match="runs already"):
        await ControlServer(server.path, Commands()).start()
    assert await asyncio.to_thread(running) == ["test"]
    stale = socket_path("stale")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    assert await asyncio.to_thread(running) == ["test"]
    with pytest.raises(ControlError, match="no `dodici up` answers"):
        ControlClient(stale)
    second = ControlServer(stale, Commands())
    await second.start()
    assert (await asking(stale, lambda client: client.call("x")))["ok"]
    await second.stop()
    assert not stale.exists()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"no json\n", "a request is a JSON object"),
        (b"[1]\n", "a request is a JSON object"),
        (b"{}\n", "a request is a JSON object"),
        (b"[" * 60_000 + b"\n", "a request is a JSON object"),
        (b'{"command": "odd", "argument": []}\n', "TypeError"),
        (b"x" * 100_000 + b"\n", "too long"),
    ],
    ids=["text", "array", "empty", "deep", "argument", "long"],
)
async def test_what_is_no_request(line: bytes, answer: str, server: ControlServer) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    writer.write(line)
    got = json.loads(await reader.readline())
    assert got["ok"] is False
    assert answer in got["error"]
    writer.close()
    await writer.wait_closed()


def test_names_follow_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = socket_name(None, tmp_path / "shop.toml")
    assert name.startswith("shop-")
    assert socket_name(None, Path("shop.toml")) == name
    assert socket_name(None, tmp_path / "other" / "shop.toml") != name
    app = socket_name(None, None, "shop.api:app")
    assert app.startswith("shop-api-")
    monkeypatch.chdir("/")
    assert socket_name(None, None, "shop.api:app") != app
    assert socket_name("mine", tmp_path) == "mine"
    for bad in ("", "../x", "a b", "x" * 50):
        with pytest.raises(InvalidArgumentError, match="is no name"):
            socket_name(bad, None)


# --------------------------------------------------------------------------------------------------- output


def test_prefixes_and_colours() -> None:
    plain, coloured = io.StringIO(), io.StringIO()
    for output in (Output(plain), Output(coloured, colour=True)):
        output.align(["inventory", "x"])
        output.add("x", 42, "stdout", "a\x1b[31mred\x1b]0;title\x07")
        output.say("two\nlines")
    assert plain.getvalue().splitlines()[0] == "x              42 | a\x1b[31mred\x1b]0;title\x07"
    assert plain.getvalue().splitlines()[1:] == ["dodici            | two", "dodici            | lines"]
    assert coloured.getvalue().splitlines()[0].endswith(" a\x1b[31mred?]0;title?\x1b[0m")
    assert "\x1b[90mdodici" in coloured.getvalue()


def test_what_is_kept_is_bounded() -> None:
    output = Output()
    for number in range(KEPT + 5):
        output.add("a" if number % 2 else "b", number, "stdout", str(number))
    output.add("a", 1, "stdout", "x" * (LINE_LIMIT + 5))
    assert len(output.last()) == KEPT
    assert len(output.last()[-1].text) == LINE_LIMIT
    assert {line.service for line in output.last("b")} == {"b"}
    assert [line.text for line in output.last("b", 2)] == ["2002", "2004"]
    assert output.last(count=0) == []


def test_reader_that_has_gone() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    output = Output(Broken())
    output.say("a")
    output.say("b")
    assert output.broken
    assert len(output.last()) == 2


async def test_slow_follower_is_told_what_it_missed() -> None:
    output = Output()
    lines = output.follow("a")
    waiting = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    for number in range(1500):
        output.add("a", 1, "stdout", str(number))
        output.add("b", 1, "stdout", "of another")
    got = [(await waiting).text] + [(await anext(lines)).text for _ in range(1000)]
    assert got[0] == "0"
    assert any(text.endswith(" lines left out here") for text in got)
    assert "of another" not in got
    await lines.aclose()
    assert not output._followers


# ---------------------------------------------------------------------------------------------------- admin


def admin(**changes: Any) -> Any:
    pytest.importorskip("prometheus_client")
    from dodici.server.admin import Admin

    tally = Tally()
    tally.add(200, 0.003)
    tally.add(503, 99.0)
    slot = {
        "index": 0, "pid": 7, "restarts": 2, "requests": 5, "errors": 1, "running": 0, "websockets": 0,
        "rss": 1000, "loop_lag": None, "uptime": 3.5, "paused": True,
    }  # fmt: skip
    service = {"name": "shop", "state": "running", "workers": 2, "slots": [slot]}
    status = {"state": "running", "connections": 3, "services": [service], **changes}
    return Admin(lambda: status, {"shop": tally})


async def get(path: bytes, app: Any, **scope: Any) -> tuple[int, dict[bytes, bytes], str]:
    headers = scope.pop("headers", [(b"host", b"127.0.0.1:9100")])
    call = Call(app, raw_path=path, **scope)
    call.scope["headers"][:] = headers
    status, fields, body = await call.end()
    return status, fields, body.decode()


async def test_metrics_are_prometheus_text() -> None:
    status, fields, text = await get(b"/metrics", admin())
    assert status == 200
    assert fields[b"content-type"].startswith(b"text/plain; version=")
    lines = text.splitlines()
    for line in (
        'dodici_gateway_requests_total{service="shop",status="503"} 1.0',
        'dodici_gateway_request_seconds_bucket{le="0.0025",service="shop"} 0.0',
        'dodici_gateway_request_seconds_bucket{le="0.005",service="shop"} 1.0',
        'dodici_gateway_request_seconds_bucket{le="+Inf",service="shop"} 2.0',
        'dodici_gateway_request_seconds_sum{service="shop"} 99.003',
        "dodici_gateway_connections 3.0",
        'dodici_service_workers_wanted{service="shop"} 2.0',
        'dodici_service_restarts_total{service="shop"} 2.0',
        'dodici_worker_paused{service="shop",worker="0"} 1.0',
        'dodici_worker_rss_bytes{service="shop",worker="0"} 1000.0',
    ):
        assert line in lines
    assert not any("loop_lag" in line and not line.startswith("#") for line in lines)
    accept = [(b"host", b"localhost"), (b"accept", b"application/openmetrics-text")]
    _, fields, text = await get(b"/metrics", admin(), headers=accept)
    assert fields[b"content-type"].startswith(b"application/openmetrics-text")
    assert text.endswith("# EOF\n")


async def test_status_and_health() -> None:
    status, _, text = await get(b"/status", admin())
    assert (status, json.loads(text)["connections"]) == (200, 3)
    assert (await get(b"/healthz", admin()))[0] == 200
    assert (await get(b"/healthz", admin(state="stopping")))[::2] == (503, "503: stopping\n")
    failed = [{"name": "a", "state": "failed", "workers": 1, "slots": []}]
    assert (await get(b"/healthz", admin(services=failed)))[::2] == (503, "503: failed: a\n")
    assert (await get(b"/", admin()))[0] == 404
    assert (await get(b"/status", admin(), method="POST"))[0] == 405
    assert (await get(b"/status", admin(), method="HEAD"))[::2] == (200, "")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"127.0.0.1:9100", 200),
        (b"[::1]:9100", 200),
        (b"[::1]", 200),
        (b"localhost:9100", 200),
        (b"", 200),
        (b"evil.example:9100", 403),
        (b"10.0.0.1", 403),
        (b"127.0.0.1.evil.example", 403),
    ],
)
async def test_names_of_other_machines_are_refused(host: bytes, status: int) -> None:
    assert (await get(b"/healthz", admin(), headers=[(b"host", host)]))[0] == status
