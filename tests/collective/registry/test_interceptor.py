"""A plain gRPC service behind the interceptor, called by plain gRPC clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests.collective.registry.registry_kit import running, service, serving

from dodici.collective.registry import RemoteValidator, ValidationInterceptor
from dodici.core.errors import InvalidArgumentError

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Plain:
    """A service of bytes with a method of each kind; knows which ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def handler(self) -> Any:
        async def unary_unary(request: bytes, context: Any) -> bytes:
            self.ran.append("unary_unary")
            return request

        async def unary_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            self.ran.append("unary_stream")
            for _ in range(2):
                yield request

        async def stream_unary(requests: AsyncIterator[bytes], context: Any) -> bytes:
            self.ran.append("stream_unary")
            return b"".join([each async for each in requests])

        async def stream_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            self.ran.append("stream_stream")
            async for each in requests:
                yield each

        functions = (unary_unary, unary_stream, stream_unary, stream_stream)
        methods = {
            each.__name__: getattr(grpc, f"{each.__name__}_rpc_method_handler")(each) for each in functions
        }
        return grpc.method_handlers_generic_handler("a.Plain", methods)


@asynccontextmanager
async def behind(*interceptors: Any) -> AsyncIterator[tuple[aio.Channel, Plain]]:
    plain = Plain()
    server = aio.server(interceptors=interceptors)
    server.add_generic_rpc_handlers((plain.handler(),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel, plain
    finally:
        await server.stop(None)


async def call(channel: aio.Channel, kind: str, path: str | None = None) -> tuple[grpc.StatusCode, Any]:
    """The status of a call, and its answers or the text of its failure."""

    async def inputs() -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"

    method = getattr(channel, kind)(f"/a.Plain/{kind}" if path is None else path)
    made = method(inputs() if kind.startswith("stream") else b"1", timeout=10)
    try:
        answers = [each async for each in made] if kind.endswith("stream") else [await made]
    except aio.AioRpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, answers


async def refused(channel: aio.Channel, kind: str, path: str | None = None) -> tuple[grpc.StatusCode, str]:
    """The status and text of a call that is to be refused.

    One with a streaming input sends nothing: a client of grpc.aio that is writing when the answer arrives takes its
    failed write for the end of the call, and says INTERNAL, whatever the server has said.
    """
    method = getattr(channel, kind)(f"/a.Plain/{kind}" if path is None else path)
    made = method(timeout=10) if kind.startswith("stream") else method(b"1", timeout=10)
    return await made.code(), await made.details()


async def test_registered_methods_of_every_kind_pass_and_others_do_not() -> None:
    async with running() as registry:
        async with behind(ValidationInterceptor(registry, "plain")) as (channel, plain):
            for kind in KINDS:
                code, text = await refused(channel, kind)
                assert code is grpc.StatusCode.NOT_FOUND
                assert "no service is registered in namespace 'plain'" in text
            assert plain.ran == []
            assert await registry.services() == ()
            for count in range(1, 5):
                await registry.register_service("plain", service("a.Plain", *KINDS[:count]))
                for kind in KINDS[:count]:
                    assert (await call(channel, kind))[0] is grpc.StatusCode.OK
                for kind in KINDS[count:]:
                    assert (await refused(channel, kind))[0] is grpc.StatusCode.NOT_FOUND
            assert (await call(channel, "stream_stream"))[1] == [b"1", b"2"]
            assert (await call(channel, "stream_unary"))[1] == [b"12"]


@pytest.mark.weak_spot(17)
async def test_one_package_does_not_admit_another() -> None:
    async with running() as registry:
        await registry.register_service("plain", service("b.Plain", *KINDS))
        await registry.register_service("other", service("a.Plain", *KINDS))
        async with behind(ValidationInterceptor(registry, "plain")) as (channel, plain):
            assert (await call(channel, "unary_unary"))[0] is grpc.StatusCode.NOT_FOUND
            assert plain.ran == []


@pytest.mark.weak_spot(16)
@pytest.mark.parametrize(
    "path", ["/unary_unary", "/a.Plain/", "//unary_unary", "/a.Plain/unary_unary/", "/x/a.Plain/unary_unary", "/"]
)  # fmt: skip
@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
async def test_malformed_paths_are_refused(path: str, kind: str) -> None:
    asked = []

    def validator(*key: str) -> None:
        asked.append(key)

    async with behind(ValidationInterceptor(validator, "plain")) as (channel, plain):
        code, text = await refused(channel, kind, path)
        assert (code, text.startswith("not the path of a method")) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            True,
        )
        assert (asked, plain.ran) == ([], [])


@pytest.mark.weak_spot(16)
async def test_a_registry_elsewhere_that_goes_away() -> None:
    async with running() as registry:
        await registry.register_service("plain", service("a.Plain", *KINDS))
        async with serving(registry) as (address, _):
            validator = RemoteValidator(address, ttl=0, timeout=1)
            async with behind(ValidationInterceptor(validator, "plain")) as (channel, plain):
                assert (await call(channel, "unary_unary"))[0] is grpc.StatusCode.OK
        try:
            async with behind(ValidationInterceptor(validator, "plain")) as (channel, plain):
                for kind in KINDS:
                    assert (await refused(channel, kind))[0] is grpc.StatusCode.UNAVAILABLE
                assert plain.ran == []
        finally:
            await validator.close()


async def test_an_address_is_asked_until_the_interceptor_is_closed() -> None:
    async with running() as registry, serving(registry) as (address, face):
        await registry.register_service("plain", service("a.Plain", "unary_unary"))
        interceptor = ValidationInterceptor(address, "plain")
        async with behind(interceptor) as (channel, plain):
            assert (await call(channel, "unary_unary"))[0] is grpc.StatusCode.OK
            assert (await refused(channel, "unary_stream"))[0] is grpc.StatusCode.NOT_FOUND
            assert face.calls == 2
            await interceptor.close()
            await interceptor.close()
            assert (await refused(channel, "unary_unary"))[0] is grpc.StatusCode.NOT_FOUND
            assert (face.calls, plain.ran) == (2, ["unary_unary"])


@pytest.mark.weak_spot(16)
async def test_a_validator_that_fails_or_never_answers() -> None:
    async def never(namespace: str, service: str, method: str) -> None:
        await asyncio.Event().wait()

    def buggy(namespace: str, service: str, method: str) -> None:
        raise RuntimeError("a secret")

    interceptor = ValidationInterceptor(never, "plain", timeout=0.05)
    async with behind(interceptor) as (channel, plain):
        assert (await call(channel, "unary_unary"))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        interceptor.set_validator(buggy)
        code, text = await call(channel, "unary_unary")
        assert (code, "secret" in text) == (grpc.StatusCode.NOT_FOUND, False)
        interceptor.set_validator(None)
        assert (await call(channel, "unary_unary"))[0] is grpc.StatusCode.NOT_FOUND
        interceptor.set_validator(lambda *key: key == ("plain", "a.Plain", "unary_unary"))
        assert (await call(channel, "unary_unary"))[0] is grpc.StatusCode.OK
        assert plain.ran == ["unary_unary"]


async def test_health_is_exempt_unless_somebody_says_otherwise() -> None:
    async def code(**options: Any) -> grpc.StatusCode:
        async with behind(ValidationInterceptor(None, "plain", **options)) as (channel, _):
            request = health_pb2.HealthCheckRequest().SerializeToString()
            method = channel.unary_unary("/grpc.health.v1.Health/Check")
            try:
                await method(request, timeout=10)
            except aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

    assert await code() is grpc.StatusCode.OK
    assert await code(exempt=()) is grpc.StatusCode.NOT_FOUND


async def test_other_interceptors_run_as_before() -> None:
    seen: list[str] = []

    class Seeing(aio.ServerInterceptor):
        def __init__(self, name: str) -> None:
            self.name = name

        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            seen.append(self.name)
            return await continuation(details)

    interceptors = (
        Seeing("outer"),
        ValidationInterceptor(lambda *key: key[2] != "stream_unary", "n"),
        Seeing("inner"),
    )
    async with behind(*interceptors) as (channel, _):
        assert (await call(channel, "unary_unary"))[0] is grpc.StatusCode.OK
        assert (await refused(channel, "stream_unary"))[0] is grpc.StatusCode.NOT_FOUND
        assert (await call(channel, "unary_unary", "/a.Plain/none"))[0] is grpc.StatusCode.UNIMPLEMENTED
    assert seen == ["outer", "inner", "outer", "outer", "inner"]


def test_arguments() -> None:
    for wrong in ((3, "n"), ("nowhere", "n"), (None, "")):
        with pytest.raises(InvalidArgumentError):
            ValidationInterceptor(*wrong)
    with pytest.raises(InvalidArgumentError, match="timeout"):
        ValidationInterceptor(None, "n", timeout=0)
