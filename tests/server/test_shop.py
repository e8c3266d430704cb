"""The example runs, and does what its README says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.server.up_kit import up

import dodici
from dodici.server.config import load

for needed in ("click", "fastapi", "flask", "httptools", "prometheus_client", "psutil", "uvicorn"):
    pytest.importorskip(needed)

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop"
SHOP = EXAMPLE / "shop.toml"


def test_it_listens_where_the_readme_says() -> None:
    assert [str(each) for each in load(SHOP).gateway.listen] == ["127.0.0.1:8000"]


def test_nodes_are_two_of_a_kind() -> None:
    pytest.importorskip("grpc")
    one, two = [load(EXAMPLE / f"node{number}.toml") for number in (1, 2)]
    assert one.collector is not None
    assert two.collector is not None
    assert (one.collector.connect, two.collector.connect) == (
        (two.collector.listen,),
        (one.collector.listen,),
    )
    assert (one.collector.services, one.services) == (two.collector.services, two.services)
    taken = {str(each) for node in (one, two) for each in (*node.gateway.listen, node.admin.listen)}
    assert len(taken) == 4


async def test_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK_FILE", str(tmp_path / "stock.sqlite"))
    async with up(tmp_path, str(SHOP), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0") as running:
        assert (await running.get("/inventory/hat"))["left"] == 12
        made = await running.agent.request(
            running.origin + "/orders", method="POST", json={"item": "hat", "amount": 2}
        )
        order = await made.json()
        assert (made.status_code, order["left"]) == (201, 10)
        assert order["worker"] != order["stock_worker"]
        refused = await running.agent.request(
            running.origin + "/orders", method="POST", json={"item": "hat", "amount": 11}
        )
        assert (refused.status_code, await refused.json()) == (409, {"detail": "only 10 of hat are left"})
        assert await running.status("/orders/stock") == (200, "item,left\nhat,10\n")
        for path in ("/orders/worker", "/inventory/hat"):
            assert len({(await running.get(path))["worker"] for _ in range(4)}) == 2
        url = running.origin.replace("http", "ws", 1) + "/orders/echo"
        async with dodici.websocket(url, dispatcher=running.agent) as socket:
            await socket.send("hello")
            assert await socket.receive() == "hello"
        await running.ask("pause", target="inventory")
        assert (await running.status("/inventory/hat"))[0] == 503
        late = await running.agent.request(running.origin + "/orders", method="POST", json={"item": "hat"})
        assert late.status_code == 503
        await running.ask("resume", target="inventory")
        assert (await running.get("/inventory/hat"))["left"] == 10
