"""gRPC calls with one response: what is sent, what comes back, and every way to fail."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import math
import pickle
from typing import Any

import pytest
from tests.peers.kit import virtual
from tests.unit.api_kit import HOLD, START, FakeDispatcher, Step, data, end, fail, head, info, turns

import dodici
from dodici import GrpcChannel, GrpcDeadlineError, GrpcError, GrpcMetadata, GrpcStatus
from dodici.api.grpc_handler import CallHandler
from dodici.core.controller import EndedController
from dodici.wire.grpc.framing import encode_message

GRPC = {"content-type": "application/grpc"}
METHOD = "/pkg.Service/Method"


def answer(*messages: bytes, status: int = 0, headers: Any = None, trailers: Any = None) -> list[Step]:
    """A whole response."""
    return [
        START,
        head(200, {**GRPC, **(headers or {})}),
        *(data(encode_message(message)) for message in messages),
        end({"grpc-status": str(status), **(trailers or {})}),
    ]


def channel(script: Any = None, **options: Any) -> tuple[FakeDispatcher, GrpcChannel]:
    dispatcher = FakeDispatcher(answer(b"reply") if script is None else script)
    return dispatcher, GrpcChannel(dispatcher, "http://127.0.0.1:50051", **options)


async def failure(script: list[Step], **options: Any) -> GrpcError:
    """How a unary call fails."""
    _, calls = channel(script)
    with pytest.raises(GrpcError) as caught:
        await calls.unary_unary(METHOD, b"", **options)
    return caught.value


# -- what is sent --------------------------------------------------------------------------------------


async def test_the_request() -> None:
    dispatcher, calls = channel()
    response = await calls.unary_unary(METHOD, b"abc")
    assert response == (b"reply", GrpcMetadata(), GrpcMetadata())
    options = dispatcher.options
    assert (options.origin, options.path, options.method) == ("http://127.0.0.1:50051", METHOD, "POST")
    assert bytes(options.payload or b"") == b"\0\0\0\0\3abc"
    assert options.headers.multi_items() == [
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", f"grpc-python-dodici/{dodici.__version__}"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
    ]
    assert (options.headers_timeout, options.body_timeout, options.timeout) == (0, 0, None)
    assert options.idempotent is False


async def test_defaults_of_the_channel_and_what_a_call_adds() -> None:
    dispatcher, calls = channel(
        metadata={"token": "secret"}, timeout=5, compression="gzip", content_type="application/grpc+proto"
    )
    await calls.unary_unary(METHOD, b"abc", metadata=[("x-bin", b"\0"), ("x-bin", b"\1")], timeout=0.25)
    options = dispatcher.options
    assert options.headers.multi_items() == [
        ("grpc-timeout", "250m"),
        ("te", "trailers"),
        ("content-type", "application/grpc+proto"),
        ("user-agent", f"grpc-python-dodici/{dodici.__version__}"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
        ("grpc-encoding", "gzip"),
        ("token", "secret"),
        ("x-bin", "AA"),
        ("x-bin", "AQ"),
    ]
    payload = bytes(options.payload or b"")
    assert payload[0] == 1
    assert gzip.decompress(payload[5:]) == b"abc"
    await calls.unary_unary(METHOD, b"abc", compression="identity")
    assert dispatcher.options.headers["grpc-timeout"] == "5S"
    assert "grpc-encoding" not in dispatcher.options.headers
    assert bytes(dispatcher.options.payload or b"") == b"\0\0\0\0\3abc"
    await calls.unary_unary(METHOD, b"abc", timeout=math.inf)
    assert "grpc-timeout" not in dispatcher.options.headers


async def test_calls_that_differ_in_their_message_share_their_fields() -> None:
    dispatcher, calls = channel(timeout=3, metadata={"a": "b"})
    await calls.unary_unary(METHOD, b"1")
    first = dispatcher.options
    await calls.unary_unary(METHOD, b"2")
    assert dispatcher.options.fields.raw is first.fields.raw


async def test_what_is_remembered_of_timeouts_is_bounded() -> None:
    dispatcher, calls = channel()
    for number in range(1, 200):
        await calls.unary_unary(METHOD, b"", timeout=number)
        assert dispatcher.options.headers["grpc-timeout"].rstrip("SMH")
    assert len(calls._heads) <= 64


async def test_the_dispatchers_own_origin() -> None:
    dispatcher = FakeDispatcher(answer(b"x"), origin="http://own:1")
    await GrpcChannel(dispatcher).unary_unary(METHOD, b"")
    assert dispatcher.options.origin == "http://own:1"
    assert repr(GrpcChannel(dispatcher)) == "<GrpcChannel http://own:1 over FakeDispatcher>"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"origin": None}, "origin must be a str"),
        ({"compression": "snappy"}, "compression must be one of"),
        ({"content_type": "text/html"}, "content_type must begin"),
        ({"content_type": "application/grpc-web"}, "content_type must begin"),
        ({"content_type": "application/grpc+a\n"}, "control character"),
        ({"max_message_size": -1}, "max_message_size"),
        ({"max_message_size": 2**32}, "max_message_size"),
        ({"metadata": {"te": "x"}}, "belongs to the protocol"),
        ({"timeout": "5"}, "timeout must be a number"),
        ({"timeout": True}, "timeout must be a number"),
        ({"timeout": math.nan}, "timeout must be a number"),
    ],
)
def test_malformed_channels(options: dict[str, Any], text: str) -> None:
    with pytest.raises(dodici.InvalidArgumentError, match=text):
        GrpcChannel(FakeDispatcher(), **{"origin": "http://a", **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "pkg.Service/Method"}, "path must begin"),
        ({"method": "/a b"}, "invalid path"),
        ({"message": "text"}, "must be bytes"),
        ({"message": {}, "serializer": str}, "must be bytes, not str"),
        ({"metadata": {"a": "ü"}}, "printable ASCII"),
        ({"compression": "br"}, "compression must be one of"),
        ({"timeout": "1"}, "timeout must be a number"),
    ],
)
async def test_malformed_calls_send_nothing(options: dict[str, Any], text: str) -> None:
    dispatcher, calls = channel()
    with pytest.raises(dodici.InvalidArgumentError, match=text):
        await calls.unary_unary(**{"method": METHOD, "message": b"", **options})
    with pytest.raises(dodici.InvalidArgumentError, match=text):
        calls.unary_stream(**{"method": METHOD, "message": b"", **options})
    assert dispatcher.plays == []


async def test_serializers() -> None:
    dispatcher, calls = channel(answer(b"42"))
    response = await calls.unary_unary(
        METHOD, 7, serializer=lambda number: str(number).encode(), deserializer=int
    )
    assert response.message == 42
    assert bytes(dispatcher.options.payload or b"")[5:] == b"7"


async def test_what_a_serializer_raises_is_the_callers() -> None:
    dispatcher, calls = channel()
    with pytest.raises(ZeroDivisionError):
        await calls.unary_unary(METHOD, 0, serializer=lambda number: 1 // number)
    assert dispatcher.plays == []


# -- what comes back -----------------------------------------------------------------------------------


async def test_metadata_of_a_response() -> None:
    _, calls = channel(
        answer(b"x", headers={"a": ["1", "2"], "b-bin": "AP8"}, trailers={"c": "3", "d-bin": "YQ==,Yg"})
    )
    response = await calls.unary_unary(METHOD, b"")
    assert response.initial_metadata.multi_items() == [("a", "1"), ("a", "2"), ("b-bin", b"\0\xff")]
    assert response.trailing_metadata.multi_items() == [("c", "3"), ("d-bin", b"a"), ("d-bin", b"b")]


@pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "Application/gRPC;v=1"]
)
async def test_content_types(content_type: str) -> None:
    _, calls = channel(answer(b"x", headers={"content-type": content_type}))
    assert (await calls.unary_unary(METHOD, b"")).message == b"x"


async def test_a_response_in_pieces_after_interim_heads() -> None:
    wire = encode_message(b"in pieces")
    _, calls = channel(
        [
            START,
            info(103, {"link": "x"}),
            head(200, GRPC),
            *(data(wire[at : at + 1]) for at in range(len(wire))),
            end({"grpc-status": "0"}),
        ]
    )
    assert (await calls.unary_unary(METHOD, b"")).message == b"in pieces"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_response(encoding: str) -> None:
    _, calls = channel(
        [
            START,
            head(200, {**GRPC, "grpc-encoding": encoding}),
            data(encode_message(b"squeezed", encoding)),
            end({"grpc-status": "0"}),
        ]
    )
    assert (await calls.unary_unary(METHOD, b"")).message == b"squeezed"


async def test_a_status_with_everything() -> None:
    error = await failure(
        answer(
            status=5,
            headers={"a": "1"},
            trailers={"grpc-message": "no %E2%82%AC", "grpc-status-details-bin": "CAU", "b-bin": "AA"},
        )
    )
    assert type(error) is GrpcError
    assert error.status is GrpcStatus.NOT_FOUND
    assert error.message == "no €"
    assert str(error) == "NOT_FOUND: no €"
    assert error.details == b"\x08\x05"
    assert error.initial_metadata == GrpcMetadata({"a": "1"})
    assert error.trailing_metadata is not None
    assert error.trailing_metadata["b-bin"] == b"\0"
    assert error.trailing_metadata["grpc-status-details-bin"] == b"\x08\x05"
    assert error.origin == "http://127.0.0.1:50051"
    assert error.status_code == 200
    assert error.code == "DODICI_ERR_GRPC"
    assert error.__cause__ is None
    again = pickle.loads(pickle.dumps(error))
    assert again.__dict__ == error.__dict__
    assert str(again) == str(error)
    assert again.trailing_metadata == error.trailing_metadata


async def test_a_status_without_text() -> None:
    error = await failure(answer(status=16))
    assert (error.message, str(error)) == ("", "UNAUTHENTICATED")


async def test_trailers_only() -> None:
    only = {**GRPC, "grpc-status": "12", "grpc-message": "unknown method", "a": "1"}
    error = await failure([START, head(200, only), end()])
    assert (error.status, error.message) == (GrpcStatus.UNIMPLEMENTED, "unknown method")
    assert error.initial_metadata == GrpcMetadata()
    assert error.trailing_metadata == GrpcMetadata({"a": "1"})


async def test_the_trailers_count_even_after_messages() -> None:
    error = await failure(answer(b"a reply", status=10))
    assert error.status is GrpcStatus.ABORTED


async def test_a_known_status_in_an_http_error_counts() -> None:
    error = await failure([START, head(503, {"grpc-status": "8", "content-type": "text/html"}), end()])
    assert (error.status, error.status_code) == (GrpcStatus.RESOURCE_EXHAUSTED, 503)


def play(status_code: int = 200, headers: Any = GRPC, *steps: Step) -> list[Step]:
    return [START, head(status_code, headers), *steps]


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        (play(404, GRPC, end()), "UNIMPLEMENTED", "HTTP/1.1 status 404"),
        (play(401, {}, end()), "UNAUTHENTICATED", "HTTP/1.1 status 401, no content-type"),
        (
            play(502, {"content-type": "text/html"}, data(b"<html>")),
            "UNAVAILABLE",
            "content-type 'text/html'",
        ),
        (play(200, {"content-type": "text/html"}, data(b"<html>")), "UNKNOWN", "not gRPC"),
        (play(200, {"content-type": "application/grpc-web"}), "UNKNOWN", "not gRPC"),
        (play(204, GRPC, end()), "UNKNOWN", "HTTP/1.1 status 204"),
        (play(200, GRPC, data(encode_message(b"x")), end()), "UNKNOWN", "without grpc-status"),
        (play(200, GRPC, end({"grpc-status": "no"})), "UNKNOWN", "unknown grpc-status 'no'"),
        (play(200, GRPC, end({"grpc-status": "0"})), "UNIMPLEMENTED", "no message came"),
        (answer(b"1", b"2"), "UNIMPLEMENTED", "several messages"),
        (play(200, GRPC, data(b"\0\0\0\0\5abc"), end({"grpc-status": "0"})), "INTERNAL", "inside a message"),
        (play(200, GRPC, data(b"\7\0\0\0\0")), "INTERNAL", "impossible message flag"),
        (play(200, GRPC, data(b"\0\xff\0\0\0")), "RESOURCE_EXHAUSTED", "larger than max"),
        (play(200, GRPC, data(b"\1\0\0\0\0"), end({"grpc-status": "0"})), "INTERNAL", "names no compression"),
        (
            play(200, {**GRPC, "grpc-encoding": "zstd"}, data(b"\1\0\0\0\1x"), end({"grpc-status": "0"})),
            "INTERNAL",
            "compressed with 'zstd'; supported are",
        ),
        (play(200, {"grpc-status": "0"}, data(encode_message(b"x"))), "INTERNAL", "after a head"),
        (play(200, {"grpc-status": "0"}, end()), "UNIMPLEMENTED", "no message came"),
    ],
)
async def test_responses_that_are_wrong(script: list[Step], status: str, text: str) -> None:
    dispatcher, calls = channel([*script, HOLD])
    with pytest.raises(GrpcError, match=text) as caught:
        await calls.unary_unary(METHOD, b"")
    assert caught.value.status is GrpcStatus[status]
    assert dispatcher.plays[0].exchange.done, "refused before its end and not aborted"


async def test_a_status_that_was_sent_wins_over_a_body_that_is_wrong() -> None:
    error = await failure(play(200, GRPC, data(b"\0\0"), end({"grpc-status": "14"})))
    assert error.status is GrpcStatus.UNAVAILABLE


async def test_the_size_limit_of_the_channel() -> None:
    _, calls = channel(answer(bytes(11)), max_message_size=11)
    assert (await calls.unary_unary(METHOD, b"")).message == bytes(11)
    dispatcher, calls = channel(answer(bytes(12)), max_message_size=11)
    with pytest.raises(GrpcError, match=r"12 vs\. 11 bytes") as caught:
        await calls.unary_unary(METHOD, b"")
    assert caught.value.status is GrpcStatus.RESOURCE_EXHAUSTED
    reason = dispatcher.plays[0].aborted_with
    assert isinstance(reason, GrpcError)
    assert reason.status is GrpcStatus.RESOURCE_EXHAUSTED


async def test_a_deserializer_that_raises() -> None:
    _, calls = channel(answer(b"not a number"))
    with pytest.raises(GrpcError, match="the deserializer raised ValueError") as caught:
        await calls.unary_unary(METHOD, b"", deserializer=int)
    assert caught.value.status is GrpcStatus.INTERNAL
    assert isinstance(caught.value.__cause__, ValueError)


# -- the exchange fails --------------------------------------------------------------------------------


async def test_an_error_of_the_exchange_is_the_cause() -> None:
    cause = dodici.SocketError("other side closed", phase="headers", reused=True)
    error = await failure([START, fail(cause)])
    assert (error.status, error.message) == (GrpcStatus.UNAVAILABLE, "other side closed")
    assert error.__cause__ is cause
    assert (error.phase, error.reused, error.request_not_processed) == ("headers", True, False)


async def test_what_was_not_processed_says_so() -> None:
    error = await failure([fail(dodici.ConnectionRefused("connect refused"))])
    assert error.status is GrpcStatus.UNAVAILABLE
    assert error.request_not_processed is True
    assert isinstance(error.__cause__, ConnectionRefusedError)


async def test_an_error_that_is_not_the_calls_stays_what_it_is() -> None:
    _, calls = channel([START, fail(KeyError("of the source"))])
    with pytest.raises(KeyError, match="of the source"):
        await calls.unary_unary(METHOD, b"")


async def test_a_dispatcher_that_is_closed() -> None:
    client = dodici.Client("http://127.0.0.1:9")
    await client.close()
    with pytest.raises(GrpcError) as caught:
        await GrpcChannel(client).unary_unary(METHOD, b"")
    assert caught.value.status is GrpcStatus.UNAVAILABLE
    assert isinstance(caught.value.__cause__, dodici.ClientDestroyedError)


# -- deadlines and cancellation ------------------------------------------------------------------------


@virtual
async def test_a_deadline_is_kept_here() -> None:
    dispatcher, calls = channel([START, head(200, GRPC), HOLD])
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError) as caught:
        await calls.unary_unary(METHOD, b"", timeout=2.5)
    assert loop.time() - began == pytest.approx(2.5)
    error = caught.value
    assert isinstance(error, GrpcDeadlineError)
    assert error.status is GrpcStatus.DEADLINE_EXCEEDED
    assert str(error) == f"DEADLINE_EXCEEDED: {METHOD} did not end within 2.5 s"
    assert isinstance(dispatcher.plays[0].aborted_with, GrpcDeadlineError)


@pytest.mark.parametrize("timeout", [0, -1, -math.inf])
async def test_a_deadline_that_has_passed_sends_nothing(timeout: float) -> None:
    dispatcher, calls = channel()
    with pytest.raises(GrpcDeadlineError):
        await calls.unary_unary(METHOD, b"", timeout=timeout)
    assert dispatcher.plays == []


async def test_a_deadline_that_the_server_saw() -> None:
    error = await failure(answer(status=4))
    assert isinstance(error, GrpcDeadlineError)
    assert isinstance(error, TimeoutError)


async def test_cancelled_by_the_server_at_the_deadline_is_the_deadline() -> None:
    call = CallHandler(asyncio.get_running_loop(), ("http://a", METHOD), 0, True)
    call.arm(0.0)  # passed, and its timer has not had its turn
    call.on_response_error(EndedController(), dodici.errors.StreamResetError("reset", error_code=8))
    assert call.ended
    assert type(call.error()) is GrpcDeadlineError


async def test_cancelled_by_the_server_before_the_deadline_is_not() -> None:
    error = await failure([START, fail(dodici.errors.StreamResetError("reset", error_code=8))], timeout=60)
    assert type(error) is GrpcError
    assert error.status is GrpcStatus.CANCELLED


async def test_a_timer_does_not_outlive_its_call() -> None:
    _, calls = channel()
    loop: Any = asyncio.get_running_loop()
    await calls.unary_unary(METHOD, b"", timeout=1000)
    assert [
        timer for timer in loop._scheduled if not timer.cancelled() and timer.when() > loop.time() + 900
    ] == []


async def test_cancelling_the_task_cancels_the_call() -> None:
    dispatcher, calls = channel([START, HOLD])
    task = asyncio.ensure_future(calls.unary_unary(METHOD, b""))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reason = dispatcher.plays[0].aborted_with
    assert isinstance(reason, GrpcError)
    assert reason.status is GrpcStatus.CANCELLED


async def test_cancelled_before_the_dispatcher_has_given_a_controller() -> None:
    dispatcher = FakeDispatcher([HOLD, START, HOLD], early=False)
    task = asyncio.ensure_future(GrpcChannel(dispatcher, "http://a").unary_unary(METHOD, b""))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    play = dispatcher.plays[0]
    assert play.aborted_with is None
    play.go()
    await turns()
    assert play.aborted_with is not None


def _handlers() -> int:
    return sum(type(one) is CallHandler for one in gc.get_objects())


@pytest.mark.parametrize("status", [0, 5])
async def test_nothing_is_left_to_the_collector(status: int) -> None:
    dispatcher, calls = channel(answer(b"x", status=status))
    gc.collect()
    gc.disable()
    try:
        before = _handlers()
        for _ in range(20):
            with contextlib.suppress(GrpcError):
                await calls.unary_unary(METHOD, b"", timeout=100)
        dispatcher.plays.clear()
        await turns()
        assert _handlers() == before
    finally:
        gc.enable()
