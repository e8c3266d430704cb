"""`dodici up` as a whole, in processes: requests, crashes, reloads, pauses, the end."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.server.up_kit import APPS, Held, up, write

import dodici

for needed in ("click", "httptools", "prometheus_client", "psutil", "rich", "uvicorn", "watchfiles"):
    pytest.importorskip(needed)

SHOP = """
[services.shop]
app = "sample:app"
path = "/"
cwd = "APPS"
"""
TWO = SHOP + "workers = 2\n"


async def test_requests_of_all_kinds(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        SHOP
        + """env = { COLOUR = "green" }
[services.other]
app = "sample:app"
kind = "thread"
cwd = "APPS"
[services.slow]
app = "sample:app"
cwd = "APPS"
path = "/silent"
request_timeout = 0.3
""",
    )
    async with up(tmp_path, file) as running:
        echoed = await running.get("/a%20b?c=d", method="POST", body=b"x" * 100_000)
        assert (echoed["method"], echoed["path"], echoed["query"]) == ("POST", "/a b", "c=d")
        assert echoed["size"] == 100_000
        assert echoed["headers"]["host"] == "shop.local"
        assert echoed["headers"]["x-forwarded-host"] == running.origin.removeprefix("http://")
        assert echoed["headers"]["x-forwarded-for"] == "127.0.0.1"

        async def pieces():  # type: ignore[no-untyped-def]
            for _ in range(3):
                yield b"y" * 50_000

        assert (await running.get("/", method="PUT", body=pieces()))["size"] == 150_000
        assert await running.get("/environment") == {
            "cwd": str(APPS),
            "colour": "green",
            "term": os.environ.get("TERM"),
        }
        # A thread of the gateway's process, asked by another process.
        assert await running.get("/neighbour") == {"pid": running.process.pid}
        status, text = await running.status("/large")
        assert (status, len(text)) == (200, 64 * 65536)
        assert (await running.status("/silent"))[0] == 504
        held = await Held(running).begin()
        assert await held.release() != running.process.pid
        head = await running.agent.request(running.origin + "/pid", method="HEAD")
        assert int(head.headers["content-length"]) > 0
        assert await head.bytes() == b""


async def test_killed_worker_is_replaced_and_its_sibling_serves_meanwhile(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, TWO)) as running:
        held = await Held(running).begin()
        killed = (await running.ps())["services"][0]["slots"][0]["pid"]
        os.kill(killed, signal.SIGKILL)
        await running.until(rf"worker {killed} was killed by SIGKILL")
        found = await running.until(r"worker (\d+) ready")
        pids = {(await running.get("/pid"))["pid"] for _ in range(4)}
        assert killed not in pids
        assert int(found[1]) in pids
        assert len(pids) == 2
        [service] = (await running.ps())["services"]
        assert service["state"] == "running"
        assert [slot["restarts"] for slot in service["slots"]] == [1, 0]
        try:
            assert await held.release() in pids
        except dodici.DodiciError:
            pass  # it was that worker's


async def test_request_of_a_crashing_worker_is_502(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP)) as running:
        status, text = await running.status("/crash")
        assert (status, text) == (502, "502: the service failed to answer\n")
        await running.until(r"about to crash")
        await running.until(r"exited with 7")
        await running.until(r"worker \d+ ready")
        assert (await running.get("/pid"))["pid"]


async def test_rolling_reload_loses_nothing(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, TWO)) as running:
        before = {slot["pid"] for slot in (await running.ps())["services"][0]["slots"]}
        held = [await Held(running).begin() for _ in range(2)]
        stop = asyncio.Event()
        seen: set[int] = set()

        async def caller() -> None:
            while not stop.is_set():
                seen.add((await running.get("/pid"))["pid"])

        callers = [asyncio.ensure_future(caller()) for _ in range(8)]
        running.signal(signal.SIGHUP)
        await running.until("SIGHUP: reloading")
        # The first has a successor; it stays until its own request has ended.
        await running.until(r"worker (\d+) ready")
        pids = {await each.release() for each in held}
        assert pids <= before
        await running.until("reloaded")
        stop.set()
        await asyncio.gather(*callers)
        after = {slot["pid"] for slot in (await running.ps())["services"][0]["slots"]}
        assert not before & after
        assert seen <= before | after
        assert after <= {(await running.get("/pid"))["pid"] for _ in range(4)}
        assert running.text.count("lifespan ends") == 2


async def test_worker_that_does_not_start_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    file = write(tmp_path, TWO + f'env = {{ FAIL_FILE = "{fail}" }}\n')
    async with up(tmp_path, file) as running:
        before = {slot["pid"] for slot in (await running.ps())["services"][0]["slots"]}
        fail.touch()
        status, printed = await running.command("reload")
        assert status == 1
        assert "this is why it does not start" in printed
        await running.until("reload given up, the workers before run on")
        assert {(await running.get("/pid"))["pid"] for _ in range(4)} == before
        fail.unlink()
        status, printed = await running.command("reload", "shop")
        assert (status, printed) == (0, "reloaded\n")
        assert not before & {(await running.get("/pid"))["pid"] for _ in range(4)}


async def test_reload_follows_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, SHOP)
    async with up(tmp_path, file) as running:
        text = Path(file).read_text()
        assert (await running.status("/new/x"))[0] == 200
        Path(file).write_text(text + "workers = 0\n")
        status, printed = await running.command("reload")
        assert status == 1
        assert "services.shop.workers: must be a whole number" in printed
        new = f'[services.new]\napp = "sample:app"\npath = "/new"\nstrip_path = true\ncwd = "{APPS}"\n'
        Path(file).write_text(text.replace("127.0.0.1:0", "127.0.0.1:1") + "workers = 2\n" + new)
        assert (await running.command("reload"))[0] == 0
        await running.until(r"\[gateway\] listen: a restart is needed")
        assert (await running.get("/new/x"))["headers"]["host"] == "new.local"
        assert len({(await running.get("/pid"))["pid"] for _ in range(4)}) == 2
        Path(file).write_text(text)
        assert (await running.command("reload"))[0] == 0
        assert (await running.get("/new/x"))["headers"]["host"] == "shop.local"
        [service] = (await running.ps())["services"]
        assert (service["name"], len(service["slots"])) == ("shop", 1)


async def test_pause_and_resume(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, TWO)) as running:
        first, second = [slot["pid"] for slot in (await running.ps())["services"][0]["slots"]]
        assert await running.command("pause", str(first)) == (0, f"paused: {first}\n")
        assert {(await running.get("/pid"))["pid"] for _ in range(6)} == {second}
        held = await Held(running).begin()
        assert (await running.command("pause", "shop"))[0] == 0
        response = await running.agent.request(running.origin + "/pid")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        with pytest.raises(dodici.WebSocketError) as refused:
            await dodici.websocket(running.origin + "/", dispatcher=running.agent)
        assert refused.value.status_code == 503
        assert await held.release() == second
        status, printed = await running.command("ps")
        assert status == 0
        assert printed.count("paused") == 2
        # A worker that replaces a paused one is paused, too.
        assert (await running.command("reload"))[0] == 0
        assert (await running.status("/pid"))[0] == 503
        assert (await running.command("resume", "shop"))[0] == 0
        assert not {first, second} & {(await running.get("/pid"))["pid"] for _ in range(4)}
        assert (await running.command("pause", "nobody"))[0] == 1


async def test_crash_loop_shows_why_and_others_go_on(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    fail.touch()
    file = write(
        tmp_path,
        SHOP
        + f"""[services.broken]
app = "sample:app"
path = "/broken"
cwd = "APPS"
env = {{ FAIL_FILE = "{fail}" }}
crash_limit = 3
""",
    )
    async with up(tmp_path, file, "--admin", "127.0.0.1:0") as running:
        await running.until(r"service broken has failed: its workers do not start, 3 times within 60 s")
        assert running.text.count("Traceback (most recent call last)") == 3
        assert 'sample.py", line' in running.text
        assert (await running.status("/broken/x"))[0] == 503
        assert (await running.get("/pid"))["pid"]
        status = await running.ps()
        assert {each["name"]: each["state"] for each in status["services"]} == {
            "shop": "running",
            "broken": "failed",
        }
        assert "this is why it does not start" in status["services"][1]["error"]
        health = await running.agent.request(f"http://{status['admin']}/healthz")
        assert (health.status_code, await health.text()) == (503, "503: failed: broken\n")
        fail.unlink()
        assert (await running.command("reload", "broken"))[0] == 0
        assert (await running.get("/broken/x"))["path"] == "/broken/x"
        assert (await running.ps())["services"][1]["state"] == "running"


async def test_nothing_that_starts_ends_it(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    fail.touch()
    file = write(tmp_path, SHOP + f'env = {{ FAIL_FILE = "{fail}" }}\n')
    async with up(tmp_path, file, wait=False) as running:
        assert await running.wait() == 1
        assert "this is why it does not start" in running.text
        assert "no service could be started" in running.text


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stop"])
async def test_end_waits_for_what_runs(how: str, tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP)) as running:
        held = await Held(running).begin()
        command = None
        if how == "stop":
            command = asyncio.ensure_future(running.command("stop"))
        else:
            running.signal(signal.Signals[how])
        await running.until("stopping; 1 requests are running")
        with pytest.raises(dodici.DodiciError):
            async with dodici.Agent() as other:
                await other.request(running.origin + "/pid")
        assert await held.release()
        assert await running.wait() == 0
        assert running.lines[-1].endswith("stopped")
        assert "lifespan ends" in running.text
        if command is not None:
            assert await command == (0, f"stopped: {running.process.pid}\n")
        assert not list((tmp_path / "dodici").iterdir())


async def test_signal_while_a_worker_starts(tmp_path: Path) -> None:
    file = write(tmp_path, TWO + 'env = { SLOW_START = "1" }\n')
    async with up(tmp_path, file, wait=False) as running:
        await running.until("starting slowly")
        running.signal(signal.SIGTERM)
        # Neither the import is waited for, nor a drain of what has no requests.
        async with asyncio.timeout(8):
            assert await running.wait() == 0
        assert running.lines[-1].endswith("stopped")


async def test_second_signal_ends_it_now(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP)) as running:
        held = await Held(running).begin()
        running.signal(signal.SIGTERM)
        await running.until("stopping; 1 requests")
        running.signal(signal.SIGTERM)
        await running.until("stopping now")
        assert await running.wait() == 0
        with pytest.raises(dodici.DodiciError):
            await held.release()


async def test_workers_are_replaced_by_their_requests(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, TWO + "max_requests = 20\n")) as running:
        before = {slot["pid"] for slot in (await running.ps())["services"][0]["slots"]}
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                await running.get("/pid")

        callers = [asyncio.ensure_future(caller()) for _ in range(4)]
        replaced = {int((await running.until(r"replacing worker (\d+): it has served"))[1]) for _ in range(2)}
        await running.until(r"worker \d+ ready")
        stop.set()
        await asyncio.gather(*callers)
        assert replaced & before


async def test_worker_is_replaced_by_its_memory(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP + 'max_rss = "1MiB"\n')) as running:
        await running.until(r"replacing worker \d+: it has \d+ MiB \(max_rss 1 MiB\)")
        await running.until(r"worker \d+ ready")


async def test_metrics_and_status(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP), "--admin", "127.0.0.1:0") as running:
        await running.get("/pid")
        await running.get("/pid")
        admin = f"http://{(await running.ps())['admin']}"
        metrics = await (await running.agent.request(admin + "/metrics")).text()
        assert 'dodici_gateway_requests_total{service="shop",status="200"} 2.0' in metrics
        assert 'dodici_service_workers_ready{service="shop"} 1.0' in metrics
        assert 'dodici_worker_requests_total{service="shop",worker="0"} 2.0' in metrics
        status = await (await running.agent.request(admin + "/status")).json()
        assert status["services"][0]["requests"] == 2
        assert status["services"][0]["slots"][0]["rss"] > 1_000_000
        health = await running.agent.request(admin + "/healthz")
        assert (health.status_code, await health.text()) == (200, "200: running\n")


async def test_changes_of_files_reload(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    source = (APPS / "sample.py").read_text()
    (code / "sample.py").write_text("this is no Python")
    file = write(tmp_path, SHOP.replace("APPS", "code") + '[reload]\npaths = ["code"]\n')
    async with up(tmp_path, file, "--reload") as running:
        assert "SyntaxError" in running.text
        assert (await running.status("/pid"))[0] == 503
        (code / "sample.py").write_text(source)
        await running.until("sample.py changed: reloading")
        await running.until("reloaded")
        first = (await running.get("/pid"))["pid"]
        (code / "sample.py").write_text(source + "\n# changed\n")
        await running.until("sample.py changed: reloading")
        await running.until("reloaded")
        assert (await running.get("/pid"))["pid"] != first


async def test_logs(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP)) as running:
        status, printed = await running.command("logs", "shop")
        assert status == 0
        assert "lifespan begins" in printed
        assert "listening at" not in printed
        assert "listening at" in (await running.command("logs", "dodici"))[1]
        status, printed = await running.command("logs", "nobody")
        assert status == 1
        assert "no service 'nobody'; there are: shop" in printed


async def test_websockets(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP)) as running:
        url = running.origin.replace("http", "ws", 1)
        async with dodici.websocket(url + "/", subprotocols=("a", "b"), dispatcher=running.agent) as socket:
            assert socket.subprotocol == "b"
            await socket.send("text")
            assert await socket.receive() == "text"
            await socket.send(b"\x00" * 300_000)
            assert await socket.receive() == b"\x00" * 300_000
            await socket.send("bye")
            with pytest.raises(dodici.WebSocketClosedError) as closed:
                await socket.receive()
            assert (closed.value.close_code, closed.value.close_reason) == (4001, "as you say")
        async with dodici.websocket(url + "/", dispatcher=running.agent) as socket:
            await socket.close(4002, "enough")
        await running.until("websocket ended with 4002")
        with pytest.raises(dodici.WebSocketError) as refused:
            await dodici.websocket(url + "/refused", dispatcher=running.agent)
        assert refused.value.status_code == 403
        async with dodici.websocket(url + "/", dispatcher=running.agent) as socket:
            running.signal(signal.SIGTERM)
            with pytest.raises(dodici.WebSocketClosedError) as closed:
                await socket.receive()
            assert closed.value.close_code == 1012
        assert await running.wait() == 0


async def test_one_app_without_a_file(tmp_path: Path) -> None:
    socket = tmp_path / "gateway.sock"
    arguments = ("sample:app", "--workers", "2", "--listen", "127.0.0.1:0", "--listen", f"unix:{socket}")
    async with up(tmp_path, *arguments, "--name", "mine", "--access-log") as running:
        assert len({(await running.get("/pid"))["pid"] for _ in range(4)}) == 2
        await running.until(r"127.0.0.1 GET /pid 200 \d+ B \d+\.\d ms")
        async with dodici.Agent(socket_path=str(socket)) as agent:
            response = await agent.request("http://anything/")
            assert "x-forwarded-for" not in (await response.json())["headers"]
        assert (await running.ps())["name"] == "mine"
        assert (await running.command("ps", "--name", "other"))[0] == 1
        async with up(tmp_path, *arguments, "--name", "mine", wait=False) as second:
            assert await second.wait() == 1
            assert "runs already (mine)" in second.text
        async with up(tmp_path, "sample:app", "--listen", running.origin[7:], wait=False) as third:
            assert await third.wait() == 1
            assert "the address is in use" in third.text
    assert not socket.exists()
