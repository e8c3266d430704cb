"""Validators: what they allow, and that whatever goes wrong is a refusal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.collective.kit import make
from tests.collective.registry.registry_kit import Face, failing, running, service, serving, status_of

from dodici.collective.errors import CollectiveError, call_error
from dodici.collective.grpc_server import Server, unary_unary
from dodici.collective.registry import (
    LocalRegistry,
    LocalValidator,
    MemoryStore,
    RemoteRegistry,
    RemoteValidator,
    validate_route,
    validator_of,
)
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

KEY = ("users", "UserService", "GetUser")


@pytest.fixture
async def registry() -> AsyncIterator[LocalRegistry]:
    async with running() as made:
        await made.register_service("users", service())
        yield made


class Slow:
    """A registry's server that answers when it is let, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.arrived = asyncio.Event()
        self.gone = asyncio.Event()
        self.let = asyncio.Event()

    async def answer(self, request: bytes, call: Any) -> bytes:
        self.asked += 1
        self.arrived.set()
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return b"\x0a\x03\x08\xc8\x01\x10\x01"  # 200, valid


@asynccontextmanager
async def slow() -> AsyncIterator[tuple[str, Slow]]:
    peer = Slow()
    server = Server(
        Face({"/collector.CollectorRegistry/ValidateMethod": unary_unary(peer.answer)}), "127.0.0.1:0"
    )
    await server.start()
    try:
        yield server.address, peer
    finally:
        await server.stop(None)


# -- local -----------------------------------------------------------------------------------------------


async def test_a_local_validator_answers_at_once_for_what_it_knows(registry: LocalRegistry) -> None:
    for validator in (LocalValidator(registry), LocalValidator(registry.store), validator_of(registry)):
        assert validator.validate_service_method(*KEY) is True
        error = await failing(validator.validate_service_method("users", "UserService", "Other"))
        assert error.grpc_status is GrpcStatus.NOT_FOUND
        assert "registered without a method 'Other'" in error.message
        assert (
            await status_of(validator.validate_service_method("users", "a b", "x"))
            is GrpcStatus.INVALID_ARGUMENT
        )


@pytest.mark.weak_spot(18)
async def test_validating_registers_nothing(registry: LocalRegistry) -> None:
    validator = LocalValidator(registry)
    for _ in range(2):
        assert await status_of(validate_route(validator, "users", "New", "Method")) is GrpcStatus.NOT_FOUND
    assert [each.service_name for each in await registry.services()] == ["UserService"]


@pytest.mark.weak_spot(16)
async def test_a_store_that_cannot_tell_refuses() -> None:
    class Lost(MemoryStore):
        current = False  # type: ignore[assignment]

        async def refresh(self) -> None:
            raise call_error(GrpcStatus.UNAVAILABLE, "lost")

    validator = LocalValidator(Lost())
    error = await failing(validate_route(validator, *KEY))
    assert (error.grpc_status, "lost" in error.message) == (GrpcStatus.UNAVAILABLE, True)


# -- remote ----------------------------------------------------------------------------------------------


async def test_a_remote_validator_asks_once_and_remembers(registry: LocalRegistry) -> None:
    now = 100.0
    async with serving(registry) as (address, face):
        validator = RemoteValidator(address, ttl=5, negative_ttl=1, clock=lambda: now)
        try:
            await validate_route(validator, *KEY)
            assert validator.validate_service_method(*KEY) is True
            assert await status_of(validate_route(validator, "users", "Later", "Get")) is GrpcStatus.NOT_FOUND
            await registry.register_service("users", service("Later", "Get"))
            assert await status_of(validate_route(validator, "users", "Later", "Get")) is GrpcStatus.NOT_FOUND
            assert face.calls == 2
            now = 101.5  # the no is old, the yes is not
            await validate_route(validator, "users", "Later", "Get")
            await validate_route(validator, *KEY)
            assert face.calls == 3
            now = 105.5
            await validate_route(validator, *KEY)
            assert face.calls == 4
        finally:
            await validator.close()


async def test_without_a_ttl_it_asks_each_time(registry: LocalRegistry) -> None:
    async with serving(registry) as (address, face):
        validator = RemoteValidator(address, ttl=0, negative_ttl=0)
        try:
            for _ in range(3):
                await validate_route(validator, *KEY)
            assert face.calls == 3
        finally:
            await validator.close()


async def test_what_is_remembered_is_limited(registry: LocalRegistry) -> None:
    async with serving(registry) as (address, face):
        validator = RemoteValidator(address, cache_size=10)
        try:
            for number in range(30):
                assert (
                    await status_of(validate_route(validator, "n", "S", f"M{number}")) is GrpcStatus.NOT_FOUND
                )
            assert len(validator._known) == 10
            assert face.calls == 30
        finally:
            await validator.close()


@pytest.mark.weak_spot(16)
async def test_a_registry_that_is_down_refuses_all_but_what_is_fresh(registry: LocalRegistry) -> None:
    now = 100.0
    async with serving(registry) as (address, _):
        validator = RemoteValidator(address, ttl=5, timeout=1, clock=lambda: now)
        await validate_route(validator, *KEY)
    try:
        await validate_route(validator, *KEY)
        assert await status_of(validate_route(validator, "users", "Other", "Get")) is GrpcStatus.UNAVAILABLE
        now = 105.5
        assert await status_of(validate_route(validator, *KEY)) is GrpcStatus.UNAVAILABLE
        assert await status_of(validate_route(validator, *KEY)) is GrpcStatus.UNAVAILABLE
    finally:
        await validator.close()


async def outcome(validator: Any) -> GrpcStatus:
    try:
        await validate_route(validator, *KEY)
    except CollectiveError as error:
        return error.grpc_status
    return GrpcStatus.OK


async def test_a_registry_that_came_back_is_asked_again(registry: LocalRegistry) -> None:
    async with serving(registry) as (address, _):
        pass
    validator = RemoteValidator(address, timeout=5)
    try:
        assert await status_of(validate_route(validator, *KEY)) is GrpcStatus.UNAVAILABLE
        server = Server(Face(_handlers(registry)), address)
        await server.start()
        try:
            async with asyncio.timeout(10):
                while await outcome(validator) is GrpcStatus.UNAVAILABLE:
                    await asyncio.sleep(0.02)  # grpc's own backoff has no event
            assert await outcome(validator) is GrpcStatus.OK
        finally:
            await server.stop(None)
    finally:
        await validator.close()


def _handlers(registry: LocalRegistry) -> dict[str, Any]:
    from dodici.collective.registry import RegistryServer

    return RegistryServer(registry).handlers()


async def test_a_registry_that_is_slow_refuses_in_time() -> None:
    async with slow() as (address, peer):
        validator = RemoteValidator(address, timeout=0.1)
        try:
            assert await status_of(validate_route(validator, *KEY)) is GrpcStatus.DEADLINE_EXCEEDED
            deadline = time.monotonic() + 0.02
            other = RemoteValidator(address)
            error = await failing(validate_route(other, *KEY, deadline=deadline))
            assert (error.grpc_status, "before its deadline" in error.message) == (
                GrpcStatus.DEADLINE_EXCEEDED,
                True,
            )
            await other.close()
        finally:
            peer.let.set()
            await validator.close()


async def test_many_who_ask_the_same_ask_once_and_one_who_gives_up_spoils_nothing() -> None:
    async with slow() as (address, peer):
        validator = RemoteValidator(address)
        try:
            first = asyncio.ensure_future(validate_route(validator, *KEY))
            others = [asyncio.ensure_future(validate_route(validator, *KEY)) for _ in range(20)]
            await peer.arrived.wait()
            first.cancel()
            peer.let.set()
            await asyncio.gather(*others)
            assert peer.asked == 1
            assert first.cancelled()
        finally:
            await validator.close()


async def test_how_many_questions_wait_is_limited() -> None:
    async with slow() as (address, peer):
        validator = RemoteValidator(address, max_pending=2)
        try:
            waiting = [
                asyncio.ensure_future(validate_route(validator, "n", "S", name)) for name in ("A", "B", "A")
            ]
            await peer.arrived.wait()
            assert await status_of(validate_route(validator, "n", "S", "C")) is GrpcStatus.RESOURCE_EXHAUSTED
            peer.let.set()
            await asyncio.gather(*waiting)
        finally:
            await validator.close()


async def test_closing_refuses_who_waits() -> None:
    async with slow() as (address, peer):
        validator = RemoteValidator(address)
        waiting = asyncio.ensure_future(validate_route(validator, *KEY))
        await peer.arrived.wait()
        await validator.close()
        assert await status_of(waiting) is GrpcStatus.UNAVAILABLE
        await asyncio.wait_for(peer.gone.wait(), 5)
        assert validator._pending == {}


# -- custom ----------------------------------------------------------------------------------------------


class Sync:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def validate_service_method(self, namespace: str, service: str, method: str) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Async(Sync):
    async def validate_service_method(self, namespace: str, service: str, method: str) -> Any:
        return super().validate_service_method(namespace, service, method)


FORMS: dict[str, Any] = {
    "object": Sync,
    "async object": Async,
    "function": lambda answer: Sync(answer).validate_service_method,
    "async function": lambda answer: Async(answer).validate_service_method,
}


@pytest.mark.parametrize("form", FORMS)
async def test_validators_of_somebodys_own_making(form: str) -> None:
    made = FORMS[form]
    for yes in (True, None):
        await validate_route(made(yes), *KEY)
    for no, status in (
        (False, GrpcStatus.NOT_FOUND),
        (0, GrpcStatus.NOT_FOUND),
        ("yes", GrpcStatus.NOT_FOUND),
        (ValueError("a bug"), GrpcStatus.NOT_FOUND),
        (call_error(GrpcStatus.PERMISSION_DENIED, "no"), GrpcStatus.PERMISSION_DENIED),
        (TimeoutError(), GrpcStatus.NOT_FOUND),
    ):
        assert await status_of(validate_route(made(no), *KEY)) is status


async def test_no_validator_allows_everything_and_what_is_none_is_refused() -> None:
    await validate_route(None, *KEY)
    with pytest.raises(InvalidArgumentError, match="a validator has"):
        await validate_route(3, *KEY)
    with pytest.raises(InvalidArgumentError, match="a validator has"):
        validator_of(3)
    with pytest.raises(InvalidArgumentError, match="LocalRegistry or a Store"):
        LocalValidator("users")  # type: ignore[arg-type]
    for wrong in ({"ttl": -1}, {"timeout": 0}, {"cache_size": 0}, {"max_pending": 0}):
        with pytest.raises(InvalidArgumentError):
            RemoteValidator("127.0.0.1:1", **wrong)  # type: ignore[arg-type]


async def test_what_a_validator_can_be_made_of(registry: LocalRegistry) -> None:
    class Own:
        """A registry that is none of ours."""

        start = stop = register_proto = register_service = lookup = services = types = staticmethod(print)
        validate = staticmethod(registry.validate)

    assert isinstance(validator_of(registry.store), LocalValidator)
    remote = RemoteRegistry("127.0.0.1:1")
    for given in ("127.0.0.1:1", remote):
        made = validator_of(given)
        assert isinstance(made, RemoteValidator)
        await made.close()
    await validate_route(validator_of(Own()), *KEY)
    assert await status_of(validate_route(validator_of(Own()), "users", "x", "y")) is GrpcStatus.NOT_FOUND


# -- in a collector --------------------------------------------------------------------------------------


async def test_a_collector_asks_its_validator_which_may_be_exchanged_at_any_time() -> None:
    collector, _ = make()
    async with collector, running() as registry:

        async def status() -> int:
            return (await collector.dispatch("plain", "Echo", "Say", "hello")).status.code

        assert await status() == 200
        collector.set_registry_validator(LocalValidator(registry))
        assert await status() == 404
        assert await registry.services() == ()
        await registry.register_service("plain", service("Echo", "Say"))
        assert await status() == 200
        async with serving(registry) as (address, _):
            validator = RemoteValidator(address, ttl=0, timeout=1)
            collector.set_registry_validator(validator)
            assert await status() == 200
        assert await status() == 503
        await validator.close()

        calls = [asyncio.ensure_future(status()) for _ in range(100)]
        for number in range(100):
            collector.set_registry_validator((LocalValidator(registry), None)[number % 2])
            await asyncio.sleep(0)
        assert set(await asyncio.gather(*calls)) == {200}
