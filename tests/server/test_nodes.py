"""`dodici up` with a collector: two nodes on one machine, and what becomes of requests when one of them suffers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest
from tests.server.node_kit import FRONT, Load, both, nodes, peer, pids, workers
from tests.server.up_kit import PATIENCE, Held

for needed in ("click", "grpc", "httptools", "prometheus_client", "psutil", "rich", "uvicorn", "watchfiles"):
    pytest.importorskip(needed)

pytestmark = pytest.mark.timeout(120)  # many processes, which start slowly where many tests do so

IN_TURNS = 'local_first = false\nbalance = "round_robin"'


async def test_service_is_wherever_it_takes_requests() -> None:
    async with nodes(services=FRONT, workers=2) as (a, b), b.up() as second:
        # The one that it shall connect to is not there yet.
        assert list((await second.ps())["collector"]["unanswered"]) == [a.address]
        own = await workers(second)
        assert await pids(second) == own
        async with a.up("--admin", "127.0.0.1:0") as first:
            await second.until(r"connected to a at 127\.0\.0\.1:\d+, sharing test")
            await peer(first, "b")
            others = await workers(first)
            assert await pids(first) == others, "its own come first"
            # From a worker, by the name in the mesh, through the collective, to a worker.
            assert (await first.get("/neighbour"))["pid"] in others
            echoed = await first.get("/a%20b?c=d", method="POST", body=b"x" * 100_000)
            assert (echoed["method"], echoed["path"], echoed["query"], echoed["size"]) == (
                "POST",
                "/a b",
                "c=d",
                100_000,
            )
            assert echoed["headers"]["x-forwarded-for"] == "127.0.0.1"

            async with Load(first, "/pid", "/neighbour") as load:
                await load.until(*others)
                await first.ask("pause", target="shop")
                began = dict(load.seen)
                # What was on its way when it was paused is there by now; nothing more comes.
                await load.until(*own)
                assert await pids(first) == own
                await load.until(*own)
                late = {pid: load.seen[pid] - began[pid] for pid in others}
                assert sum(late.values()) <= 8, "each of the callers has had one on its way"
                await first.ask("resume", target="shop")
                await load.until(*others)
                one = others.pop()
                await first.ask("pause", target=str(one))
                await load.until(*others)
            assert load.problems == []
            await first.ask("resume", target="shop")

            status = (await first.ps())["collector"]
            assert (status["id"], status["address"], status["state"]) == ("a", a.address, "serving")
            assert status["served"] == [{"namespace": "test", "service": "Shop", "by": "http://shop.local"}]
            told, shown = await first.command("ps")
            assert told == 0
            assert re.search(rf"collector a +{a.address} +serving +test", shown)
            assert re.search(rf"b +{b.address} +connected", shown)
            assert re.search(r"test/Shop +http://shop\.local +100 % +b 100 %", shown)
            told, shown = await first.command("collectors", b.address)
            assert told == 0
            assert re.search(rf"a +{a.address} +connected", shown)
            assert len(list((a.folder / "dodici").glob("a-*.collector"))) == 1, "for `dodici collectors`"
            admin = f"http://{(await first.ps())['admin']}"
            metrics = await (await first.agent.request(f"{admin}/metrics")).text()
            assert 'dodici_collective_peer_connected{peer="b"} 1.0' in metrics
            assert 'dodici_gateway_requests_total{service="other",status="200"}' in metrics
            shown = await (await first.agent.request(f"{admin}/status")).json()
            assert shown["collector"]["peers"][0]["id"] == "b"
            assert [each["kind"] for each in shown["services"]] == ["process", "collective", "process"]

            # A call of its peer's is finished by a node that drains.
            await first.ask("pause", target="shop")
            held = await Held(first).begin()
            second.signal(signal.SIGTERM)
            await second.until("b drains")
            # As soon as the peer has been told, nothing new is sent there; and there is nobody else.
            async with asyncio.timeout(PATIENCE):
                while (response := await first.agent.request(first.origin + "/pid")).status_code == 200:
                    await response.bytes()
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert second.process.returncode is None
            assert await held.release() in own
            assert await second.wait() == 0


async def test_node_that_leaves_and_comes_back_fails_nobody() -> None:
    async with nodes(extra=IN_TURNS) as (a, b), a.up() as first:
        [own] = await workers(first)
        async with b.up() as second:
            await peer(first, "b")
            [other] = await workers(second)
            async with Load(first, "/pid") as load:
                await load.until(own, other, more=5)
                # The answer to `pause` is that the peers know.
                await second.ask("pause", target="shop")
                assert await pids(first) == {own}
                await second.ask("resume", target="shop")
                await load.until(other)
                assert load.problems == []
                # A worker dies: at most what it had in hand is lost, and its node goes on with another.
                os.kill(other, signal.SIGKILL)
                await second.until(r"worker (\d+) ready")
                [successor] = await workers(second)
                await load.until(own, successor, more=5)
                assert len(load.problems) <= 4, load.problems
                load.problems.clear()
                # A node drains and ends.
                second.signal(signal.SIGTERM)
                assert await second.wait() == 0
                await load.until(own, more=5)
                assert load.problems == []
                assert second.text.index("b drains") < second.text.index("stopped")
                # It comes back, and is killed as a whole.
                async with b.up() as third:
                    [last] = await workers(third)
                    ready = time.monotonic()
                    await load.until(last)
                    assert time.monotonic() - ready < 3.0
                    assert load.problems == []
                    third.process.kill()
                    await third.wait()
                    await load.until(own, more=5)
                async with b.up() as fourth:
                    # Nobody tells the other one by `connect` only: whichever finds the other first connects them.
                    ready = time.monotonic()
                    await load.until_any(await workers(fourth))
                    assert time.monotonic() - ready < 3.0
                    assert len(load.problems) <= 4, load.problems
                    load.problems.clear()
            assert load.problems == []


async def test_nodes_find_each_other_through_etcd(tmp_path: Path) -> None:
    from tests.collective.discovery.etcd_kit import Etcd

    with Etcd(tmp_path) as etcd:
        async with nodes(extra=f'discovery = "{etcd.url()}"') as (a, b):
            b.file.write_text(
                b.file.read_text().replace(a.address, "127.0.0.1:9").replace("['127.0.0.1:9']", "[]")
            )
            async with both(a, b) as (first, _):
                await peer(first, "b")
                [member] = (await first.ps())["collector"]["members"]
                assert (member["id"], member["address"], member["source"]) == ("b", b.address, "etcd")
                b.file.write_text(
                    b.file.read_text().replace('id = "b"', 'id = "a"').replace(b.address, "127.0.0.1:0")
                )
                async with b.up("--name", "third", wait=False) as third:
                    await third.until(rf"collector id 'a' is taken: the collector at {a.address} has it")


async def test_reload_follows_the_file() -> None:
    async with nodes() as (a, b), both(a, b) as (first, second):
        await peer(first, "b")
        text = a.file.read_text()
        a.file.write_text(
            text.replace('id = "a"', 'id = "z"').replace(
                '"test.Shop"]\n',
                '"test.Front"]\norigin = "http://127.0.0.1:9"\n[collector.services."test.Again"]\n',
            )
        )
        first.signal(signal.SIGHUP)
        await first.until(r"\[collector\] id: a restart is needed for this to change")
        await first.until("reloaded$")
        status = (await first.ps())["collector"]
        assert status["id"] == "a"
        assert {each["service"]: each["by"] for each in status["served"]} == {
            "Front": "http://127.0.0.1:9",
            "Again": "http://shop.local",
        }
        # It serves nothing of that name any more, and asks the one who does.
        assert await pids(first) == await workers(second)
        learned = {each["service"] for each in (await second.ps())["collector"]["routes"] if each["peers"]}
        assert learned == {"Front", "Again"}
        # What cannot be imported is served as before; whom the file does not name is connected no more.
        b.file.write_text(
            b.file.read_text()
            .replace(f"['{a.address}']", "[]")
            .replace('origin = "http://shop.local"', 'handler = "nowhere_at_all:x"')
        )
        [problem] = (await second.ask("reload"))["problems"]
        assert "cannot import 'nowhere_at_all'" in problem
        assert re.search(r"test\.toml:\d+: collector\.services\.\"test\.Shop\"\.handler: ", problem)
        assert await pids(second) == await workers(second)
        assert (await second.ps())["collector"]["peers"] == []
        a.file.write_text(text.replace("[collector]", "[collector]\nlissten = 1"))
        [problem] = (await first.ask("reload"))["problems"]
        assert problem.endswith("collector.lissten: unknown key; did you mean 'listen'?")
        # Namespaces that services brought go with them.
        a.file.write_text(text.replace('"test.Shop"', '"away.Shop"').replace("Shop.test", "Shop.away"))
        assert (await first.ask("reload"))["problems"] == []
        assert (await first.ps())["collector"]["namespaces"] == ["away"]
        # Another one of the same file.
        a.file.write_text(text)
        async with a.up("--name", "another", wait=False) as third:
            assert await third.wait() == 1
            assert third.lines[-1] == f"dodici: cannot listen on {a.address}: the address is in use"
