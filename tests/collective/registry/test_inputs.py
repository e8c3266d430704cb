"""Inputs of types that only a registry tells: a dict is sent as a message of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.collective.fleet import fleet, settled
from tests.collective.peers.stock_kit import stock
from tests.collective.registry.registry_kit import file, running, service, serving

from dodici.collective.registry import LocalRegistry
from dodici.core.errors import InvalidArgumentError

USER = "type.googleapis.com/a.User"


@pytest.fixture
async def kept() -> AsyncIterator[LocalRegistry]:
    """Knows a.User and who takes it; nobody else does."""
    async with running() as registry:
        await registry.register_service("shop", service("Users", "Get", "Feed", types=".a.User"), file())
        yield registry


@pytest.fixture(params=["local", "remote"])
async def registry(request: Any, kept: LocalRegistry) -> AsyncIterator[Any]:
    async with serving(kept) as (address, _):
        yield kept if request.param == "local" else address


async def test_a_dict_is_sent_as_the_registered_message(registry: Any) -> None:
    async with stock() as (own, _), fleet(a={"registry": registry}) as (a,):
        await a.connect_to(own.address)
        for given, value in (({"name": "n"}, b"\x0a\x01n"), ({}, b""), (None, b"")):
            assert (await a.dispatch("shop", "Users", "Get", given)).status == 200
            request = own.served[-1].input
            assert (request.type_url, request.value) == (USER, value)
        # What is no dict says itself what it is.
        packed = AnyMessage(type_url=USER, value=b"\x0a\x01m")
        assert (await a.dispatch("shop", "Users", "Get", packed)).status == 200
        assert own.served[-1].input == packed
        # Of a method that the registry does not know, a dict is a Struct as ever.
        assert (await a.dispatch("shop", "Users", "Other", {"name": "n"})).status == 200
        assert own.served[-1].input.type_url.endswith("google.protobuf.Struct")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"title": "n"}, '"title"'),
        ({"name": 5}, "name"),
        ({"name": {"deep": 1}}, "name"),
        ({"name": b"n"}, "value['name'] is bytes"),
    ],
)
async def test_a_wrong_field_is_named_before_anything_is_sent(
    kept: LocalRegistry, given: Any, said: str
) -> None:
    async with stock() as (own, _), fleet(a={"registry": kept}) as (a,):
        await a.connect_to(own.address)
        answer = await a.dispatch("shop", "Users", "Get", given)
        assert (answer.status, answer.status.grpc_status.name) == (400, "INVALID_ARGUMENT")
        assert "a.User" in answer.status.message
        assert said in answer.status.message
        assert own.served == []
        assert a.stats().failures == 1


async def test_each_message_of_a_stream_is_packed(kept: LocalRegistry) -> None:
    async with fleet(a={"registry": kept}, b={}) as (a, b):
        seen: list[Any] = []

        async def feed(context: Any, given: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for each in given:
                seen.append(each)
                yield len(seen)

        b.register_service("shop", "Users", "Feed", feed, kind="stream_stream")
        await a.connect_to(b.address)
        stream = a.dispatch_stream("shop", "Users", "Feed", [{"name": "x"}, None])
        assert [each async for each in stream] == [1, 2]
        assert [(each.type_url, each.value) for each in seen] == [(USER, b"\x0a\x01x"), (USER, b"")]
        wrong = await a.dispatch_stream("shop", "Users", "Feed", [{"name": "x"}, {"age": 1}])
        assert (wrong.status, '"age"' in wrong.status.message) == (400, True)


async def test_a_handler_here_without_a_type_gets_what_its_caller_gave(kept: LocalRegistry) -> None:
    async with fleet(a={"registry": kept}) as (a,):
        a.register_service("shop", "Users", "Get", lambda context, given: given)
        assert (await a.dispatch("shop", "Users", "Get", {"any": 1})).output == {"any": 1}


async def test_a_new_version_of_a_type_counts_from_then_on(kept: LocalRegistry) -> None:
    async with stock() as (own, _), fleet(a={"registry": kept}) as (a,):
        await a.connect_to(own.address)
        assert (await a.dispatch("shop", "Users", "Get", {"age": 3})).status == 400
        newer = file()
        newer.message_type[0].field.add(
            name="age", number=2, type="TYPE_INT64", label="LABEL_OPTIONAL", json_name="age"
        )
        await kept.register_proto("shop", newer)
        # 2**60 has no place in a Struct, and has one in an int64.
        assert (await a.dispatch("shop", "Users", "Get", {"age": 3})).status == 200
        assert own.served[-1].input.value == b"\x10\x03"
        assert (await a.dispatch("shop", "Users", "Get", {"age": 2**60})).status == 200
        with pytest.raises(InvalidArgumentError):
            await a.dispatch("shop", "Users", "Other", {"age": 2**60})


async def test_a_registry_that_is_gone_is_remembered(kept: LocalRegistry) -> None:
    async with stock() as (own, _):
        async with serving(kept) as (address, _), fleet(a={"registry": address}) as (a,):
            await a.connect_to(own.address)
            await a._registry.settled()
            assert (await a.dispatch("shop", "Users", "Get", {"name": "n"})).status == 200
            a._registry._clock = lambda: 1e12
            a._registry.registry._timeout = 0.2
            await a._registry.registry.stop()
            a._registry.registry.address = "127.0.0.1:1"
            assert (await a.dispatch("shop", "Users", "Get", {"name": "n"})).status == 200
            assert own.served[-1].input.type_url == USER
            await settled(a, "stock")
