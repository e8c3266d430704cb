"""Who may send whole exchanges to a service: asked of validators as all of it, of policies as `~http`."""

from __future__ import annotations

from typing import Any

import pytest
from tests.collective.http.http_kit import NAMESPACE, ORIGIN, Node, at_rest, entrance, register

from dodici import Agent
from dodici.collective import CollectiveError, Collector, LocalValidator, Policy
from dodici.collective.admission import Admission
from dodici.collective.contracts import Call, Identity
from dodici.collective.http.framing import HTTP, UNARY
from dodici.collective.http.interceptor import CollectiveInterceptor
from dodici.collective.names import RouteKey

BODIES: list[Any] = [None, [b"streamed"]]


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_validator_is_asked_about_all_of_the_service(streamed: bool) -> None:
    asked: list[tuple[str, ...]] = []
    allowed = True

    def validator(*name: str) -> bool:
        asked.append(name)
        return allowed

    async with Node("b") as b, entrance(b) as (entry, agent):
        b.collector.set_registry_validator(validator)
        response = await agent.request(f"{ORIGIN}/echo", method="POST", body=BODIES[streamed])
        assert response.status_code == 200
        await response.bytes()
        allowed = False
        with pytest.raises(CollectiveError, match="refused by the validator"):
            await agent.request(f"{ORIGIN}/echo", method="POST", body=BODIES[streamed])
        assert asked == [(NAMESPACE, "api", "*")] * 2
        await at_rest(entry, b.collector)


async def test_a_registry_knows_the_services_that_are_origins_altogether() -> None:
    async with Node("b") as b, Collector("r", "127.0.0.1:0", namespaces=[NAMESPACE], registry="memory") as r:
        register(r, "api", "http://api.local", b.agent)
        r.register_origin(NAMESPACE, "part", "http://api.local", dispatcher=b.agent, methods=["Echo"])
        assert r._registry is not None
        await r._registry.settled()
        r.set_registry_validator(LocalValidator(r.registry))  # type: ignore[arg-type]
        agent = Agent().compose(CollectiveInterceptor(r))
        assert (await agent.request(f"{ORIGIN}/empty")).status_code == 200
        with pytest.raises(CollectiveError, match="refused"):
            await agent.request(f"http://part.{NAMESPACE}.collective/empty")
        await agent.destroy()


@pytest.mark.parametrize("method", [HTTP, UNARY])
async def test_policies_match_the_name_of_the_exchange(method: str) -> None:
    caller = Identity(("spiffe://a",), tls=True)

    async def allowed(glob: str) -> bool:
        admission = Admission(Policy().allow("*", NAMESPACE, glob))
        try:
            await admission.check(Call(RouteKey(NAMESPACE, "api", method), caller=caller, peer="ipv4:x"))
        except CollectiveError:
            return False
        return True

    assert await allowed("api.*")
    assert await allowed("api.~http")
    assert not await allowed("api.Get*")
    assert not await allowed("api.?")
    assert not await allowed("other.*")
