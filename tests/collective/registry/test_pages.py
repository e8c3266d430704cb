"""ListServices in pages, and whole."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.collective.registry.registry_kit import running, service, serving

from dodici.collective.data_plane import Channel
from dodici.collective.errors import call_error
from dodici.collective.protos import registry_pb2 as pb
from dodici.collective.registry import LocalRegistry, RemoteRegistry
from dodici.collective.registry.catalogue import Kind
from dodici.core.grpc_status import GrpcStatus


@pytest.fixture
async def registry() -> AsyncIterator[LocalRegistry]:
    async with running() as made:
        yield made


@contextlib.asynccontextmanager
async def asking(registry: LocalRegistry, authorizer: Any = None) -> AsyncIterator[Callable[..., Any]]:
    """Calls ListServices as a client of the published schema does."""
    async with serving(registry, authorizer) as (address, _):
        channel = Channel(address)

        async def ask(**fields: Any) -> pb.ListServicesResponse:
            request = pb.ListServicesRequest(**fields).SerializeToString()
            payload = await channel.unary("/collector.CollectorRegistry/ListServices", request, timeout=10)
            return pb.ListServicesResponse.FromString(payload)

        try:
            yield ask
        finally:
            await channel.close()


class OnlyOpen:
    """Lets see the namespace "open"."""

    def check(self, identity: Any, namespace: str, service: str, method: str) -> None:
        if namespace != "open":
            raise call_error(GrpcStatus.PERMISSION_DENIED, f"not {namespace}")


@pytest.mark.weak_spot(22)
async def test_more_than_ten_thousand_services_are_listed_whole_and_in_pages() -> None:
    count = 12_000
    async with running() as registry:
        for number in range(count):
            await registry.register_service("abc"[number % 3], service(f"S{number:05}"))
        expected = sorted(("abc"[number % 3], f"S{number:05}") for number in range(count))
        async with asking(registry) as ask:
            whole = await ask()
            assert [(each.namespace, each.service_name) for each in whole.services] == expected
            assert whole.next_page_token == ""
            found, token, pages = [], "", 0
            while pages == 0 or token:
                page = await ask(page_size=5000, page_token=token)
                found += [(each.namespace, each.service_name) for each in page.services]
                token, pages = page.next_page_token, pages + 1
            assert (found, pages) == (expected, 3)
            one = await ask(namespace="b", page_size=4000)
            assert (len(one.services), one.next_page_token) == (4000, "")
        async with serving(registry) as (address, face):
            remote = RemoteRegistry(address)
            try:
                assert len(await remote.services()) == count
                assert face.calls == 12
            finally:
                await remote.stop()


async def test_pages_go_on_where_they_were_whatever_comes_and_goes(registry: LocalRegistry) -> None:
    for name in "BDF":
        await registry.register_service("n", service(name))
    async with asking(registry) as ask:
        first = await ask(page_size=2)
        assert [each.service_name for each in first.services] == ["B", "D"]
        registry.store.catalogue.remove(Kind.SERVICE, "n", "D")
        for name in "ACE":
            await registry.register_service("n", service(name))
        rest = await ask(page_size=10, page_token=first.next_page_token)
        assert [each.service_name for each in rest.services] == ["E", "F"]
        for wrong in ("x", "====", "\u00fc", "QUJD"):
            refused = await ask(page_token=wrong)
            assert (refused.status.code, "page_token" in refused.status.message) == (400, True)
        assert (await ask(page_size=-1)).status.code == 400


async def test_pages_have_only_what_the_caller_may_see(registry: LocalRegistry) -> None:
    for namespace in ("closed", "open"):
        for name in "AB":
            await registry.register_service(namespace, service(name))
    async with asking(registry, OnlyOpen()) as ask:
        page = await ask(page_size=1)
        assert [(each.namespace, each.service_name) for each in page.services] == [("open", "A")]
        page = await ask(page_size=1, page_token=page.next_page_token)
        assert [(each.namespace, each.service_name) for each in page.services] == [("open", "B")]
        assert page.next_page_token == ""
