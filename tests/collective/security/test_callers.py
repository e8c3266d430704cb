"""The end caller's identity: over hops, into policies, and by whom it may be said."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.collective.security.certs import Authority, spiffe
from tests.collective.security.secure_kit import ask, channel, collector, connect

from dodici.collective import CallContext, Collector, Policy
from dodici.core.grpc_status import GrpcStatus

DENIED = GrpcStatus.PERMISSION_DENIED
SHOP = "spiffe://corp.example/ns/shop/sa/web"


@contextlib.asynccontextmanager
async def line(
    authority: Authority, *, a: Policy | None = None, b: Policy | None = None
) -> AsyncIterator[tuple[Collector, Collector]]:
    """Collectors a and b, connected, with policies."""
    async with (
        collector("a", authority.collector("a", "orders"), policy=a) as first,
        collector("b", authority.collector("b", "orders"), policy=b) as second,
    ):
        await first.connect_to(second.address)
        yield first, second


async def test_the_caller_crosses_a_hop(authority: Authority) -> None:
    async with line(authority) as (a, _), channel(a.address, authority.tls("web", [SHOP])) as client:
        assert await ask(client, "b") == f"{SHOP} a"


async def test_the_policy_is_asked_at_the_entry_and_where_the_call_runs(authority: Authority) -> None:
    web = Policy().allow(SHOP, "orders", "Who-b.Ask")
    nobody = Policy()
    collectors = Policy().allow(spiffe("orders", "*"), "orders")
    tls = authority.tls("web", [SHOP])
    for entry, end, expected in (
        (web, web, f"{SHOP} a"),
        (None, web, f"{SHOP} a"),
        (nobody, web, DENIED),
        (web, nobody, DENIED),
        # That the call comes by way of a collector that may call is nothing to the caller.
        (web, collectors, DENIED),
    ):
        async with line(authority, a=entry, b=end) as (a, _), channel(a.address, tls) as client:
            assert await ask(client, "b") == expected


async def test_a_collector_calls_in_its_own_name(authority: Authority) -> None:
    end = Policy().allow(spiffe("orders", "a"), "orders", "Who-b.*")
    async with line(authority, a=Policy(), b=end) as (a, b):
        # The process itself is not asked for its name at home.
        assert (await a.dispatch("orders", "Who-a", "Ask")).output == b"None "
        assert (await a.dispatch("orders", "Who-b", "Ask")).output == f"{spiffe('orders', 'a')} a".encode()
        assert (await b.dispatch("orders", "Who-a", "Ask")).status == 403


async def test_a_handler_calls_in_the_name_of_its_caller(authority: Authority) -> None:
    only_a = Policy().allow(spiffe("orders", "a"), "orders")
    async with (
        line(authority, b=only_a) as (a, _),
        channel(a.address, authority.tls("web", [SHOP])) as client,
    ):

        async def through(context: CallContext, given: Any) -> bytes:
            return str((await a.dispatch("orders", "Who-b", "Ask")).status.code).encode()

        a.register_service("orders", "Who-through", "Ask", through)
        assert await ask(client, "through") == "403"


async def test_who_is_no_collector_cannot_say_who_calls(authority: Authority) -> None:
    async with line(authority) as (a, b), channel(b.address, authority.tls("web", [SHOP])) as client:
        connection = a.connections[0].connection_id
        for claimed in (
            [("x-dodici-caller", spiffe("orders", "a"))],
            [("x-dodici-caller", spiffe("orders", "a")), ("x-dodici-connection", connection)],
            [
                ("x-dodici-caller", spiffe("orders", "a")),
                ("x-dodici-connection", "guessed"),
                ("x-dodici-path", "a"),
            ],
        ):
            assert await ask(client, "b", claimed) == f"{SHOP} "


async def test_the_id_of_a_connection_is_worth_nothing_without_its_certificate(authority: Authority) -> None:
    async with collector("a", authority.collector("a", "orders")) as a:
        c = authority.collector("c", "orders")
        async with channel(a.address, c) as client, channel(a.address, authority.tls("web", [SHOP])) as thief:
            connected = await connect(client, "c", "127.0.0.1:9", "orders")
            assert connected.status.code == 200
            vouching = [
                ("x-dodici-connection", connected.connection_id),
                ("x-dodici-caller", "somebody"),
                ("x-dodici-path", "c"),
            ]
            assert await ask(client, "a", vouching) == "somebody c"
            assert await ask(thief, "a", vouching) == f"{SHOP} "


async def test_without_certificates_a_policy_lets_nobody_in() -> None:
    async with (
        collector("a", None, policy=Policy().allow("*", "*")) as a,
        channel(a.address, None) as client,
    ):
        assert await ask(client) is GrpcStatus.UNAUTHENTICATED
