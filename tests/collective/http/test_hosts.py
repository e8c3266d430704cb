"""Which hosts are the collective's, and what they stand for."""

from __future__ import annotations

from typing import Any

import pytest
from tests.collective.http.http_kit import Node, announced, entrance

from dodici import DispatchOptions
from dodici.collective import Collector
from dodici.collective.http.interceptor import CollectiveInterceptor
from dodici.core.controller import refuse
from dodici.core.errors import InvalidArgumentError, NoTargetError, NotSupportedError
from dodici.testing import RecordingHandler


async def answer(context: Any, given: Any) -> Any:
    return f"{context.namespace}/{context.service}.{context.method}"


def served(*names: str) -> Collector:
    """A collector that has Method in these services ("service.namespace")."""
    collector = Collector("one", "127.0.0.1:0")
    for name in names:
        service, _, namespace = name.rpartition(".")
        collector.register_service(namespace, service, "Method", answer)
    return collector


class Next:
    """The dispatcher behind: what it was asked."""

    def __init__(self) -> None:
        self.origins: list[str | None] = []

    def __call__(self, options: DispatchOptions, handler: Any) -> bool:
        self.origins.append(options.origin)
        return refuse(handler, InvalidArgumentError("passed on"))


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("http://orders.shop.collective", "shop/Orders.Method"),
        ("http://ORDERS.Shop.Collective", "shop/Orders.Method"),
        ("http://orders.shop.collective.", "shop/Orders.Method"),
        ("http://orders.shop.collective:8080", "shop/Orders.Method"),
        ("https://orders.shop.collective", "shop/Orders.Method"),
        ("http://shop.v1.Orders.shop.collective", "shop/shop.v1.Orders.Method"),
        ("http://exact.shop.collective", "shop/exact.Method"),
        ("http://orders.Other.collective", "Other/orders.Method"),
    ],
)
async def test_hosts_of_services(origin: str, said: str) -> None:
    names = ("Orders.shop", "shop.v1.Orders.shop", "EXACT.shop", "exact.shop", "orders.Other")
    async with served(*names) as collector:
        branch = CollectiveInterceptor(collector)(Next())
        recorder = RecordingHandler()
        branch(DispatchOptions(origin=origin, path="/Method", method="POST"), recorder)
        await recorder.wait()
        assert recorder.body.decode() == f'"{said}"'
        await branch.close()


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "http://example.com",
        "http://collective",
        "http://shop.collective.example.com",
        "http://notcollective",
        "http://orders.shop.recollective",
        "nonsense",
    ],
)
async def test_other_hosts_are_passed_on(origin: str | None) -> None:
    async with served("Orders.shop") as collector:
        behind = Next()
        branch = CollectiveInterceptor(collector)(behind)
        branch(DispatchOptions(origin=origin, path="/"), RecordingHandler())
        assert behind.origins == [origin]
        await branch.close()


async def test_unknown_services_are_an_error_or_passed_on() -> None:
    async with served("Orders.shop") as collector:
        behind = Next()
        options = DispatchOptions(origin="http://other.shop.collective", path="/Method", method="POST")
        branch = CollectiveInterceptor(collector)(behind)
        recorder = RecordingHandler()
        assert recorder.dispatch(branch, options) is False
        assert isinstance(recorder.error, NoTargetError)
        assert "'other' in namespace 'shop'" in str(recorder.error)
        assert recorder.error.request_not_processed
        assert behind.origins == []
        CollectiveInterceptor(collector, unknown="pass")(behind)(options, RecordingHandler())
        assert behind.origins == ["http://other.shop.collective"]
        # What is registered later is found from then on.
        collector.register_service("shop", "Other", "Method", answer)
        recorder = RecordingHandler()
        recorder.dispatch(branch, options)
        assert (await recorder.wait()).status_code == 200
        await branch.close()


async def test_a_host_without_a_service_is_refused() -> None:
    async with served("Orders.shop") as collector:
        branch = CollectiveInterceptor(collector)(Next())
        for origin in ("http://shop.collective", "http://.shop.collective"):
            recorder = RecordingHandler()
            recorder.dispatch(branch, DispatchOptions(origin=origin, path="/"))
            assert isinstance(recorder.error, InvalidArgumentError)
        await branch.close()


@pytest.mark.parametrize(
    "wrong",
    [{"domain": ""}, {"domain": "a b"}, {"unknown": "maybe"}, {"timeout": -1}, {"body_timeout": "x"}],
    ids=str,
)
async def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        CollectiveInterceptor(served("Orders.shop"), **wrong)
    with pytest.raises(InvalidArgumentError):
        CollectiveInterceptor("collector")  # type: ignore[arg-type]


async def test_another_domain() -> None:
    async with served("Orders.shop") as collector:
        branch = CollectiveInterceptor(collector, domain="svc.example")(Next())
        recorder = RecordingHandler()
        origin = "http://orders.shop.svc.example"
        recorder.dispatch(branch, DispatchOptions(origin=origin, path="/Method", method="POST"))
        assert (await recorder.wait()).status_code == 200
        await branch.close()


@pytest.mark.parametrize("how", [{"upgrade": "websocket"}, {"method": "CONNECT", "path": "a:1"}], ids=str)
async def test_tunnels_are_not_supported(how: dict[str, Any]) -> None:
    async with served("Orders.shop") as collector:
        branch = CollectiveInterceptor(collector)(Next())
        recorder = RecordingHandler()
        options = {"origin": "http://orders.shop.collective", "path": "/", **how}
        recorder.dispatch(branch, DispatchOptions(**options))
        assert isinstance(recorder.error, NotSupportedError)
        assert "the collective" in str(recorder.error)
        await branch.close()


async def test_a_collector_that_is_not_started_takes_nothing() -> None:
    branch = CollectiveInterceptor(served("Orders.shop"))(Next())
    recorder = RecordingHandler()
    options = DispatchOptions(origin="http://orders.shop.collective", path="/Method", method="POST")
    recorder.dispatch(branch, options)
    await recorder.wait()
    assert "not started" in str(recorder.error or recorder.body)
    await branch.close()


async def test_an_origin_that_was_lost_is_no_method_call() -> None:
    """While its collector is out of reach, a service stays what it was: there is no target, and no 405."""
    async with Node("b") as b, entrance(b) as (entry, agent):
        origin = "http://api.shop.collective"
        assert (await agent.request(f"{origin}/empty")).status_code == 200
        await b.collector.stop(0.0)
        with pytest.raises(NoTargetError):
            await agent.request(f"{origin}/empty")
        await b.collector.start()
        await entry.connect_to(b.collector.address)
        await announced(entry, "b")
        assert (await agent.request(f"{origin}/empty")).status_code == 200
