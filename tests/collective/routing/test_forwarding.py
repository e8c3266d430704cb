"""What a hop carries: payloads of all kinds, metadata, failures, deadlines and cancellation; and what is tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio
from tests.collective.fleet import fleet, serve, settled, until
from tests.collective.kit import SERVICE, OrderServicer, descriptor, order, order_class

from dodici.collective import Breaker, Budget, Collector, Retry
from dodici.collective.names import RouteKey
from dodici.collective.values import from_any, to_any

RAW = (("x-dodici-namespace", "shop"),)


@pytest.fixture(params=["batched", "direct"])
async def hop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Collectors a, b, c in a line, with all of `Work` at c; calls from one to the next go on the link, or as they are."""
    if request.param == "direct":
        monkeypatch.setattr("dodici.collective.link.MOST_CALLS", 0)
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        work = serve(c)
        await a.connect_to(b.address)
        await b.connect_to(c.address)
        await settled(a, "b")
        batched = a._peers.get("b").batch  # type: ignore[union-attr]
        assert (batched is not None) == (request.param == "batched")
        yield a, b, c, work


@pytest.fixture
async def typed() -> AsyncIterator[Any]:
    """A stub's channel to a, and the servicer at c, two hops on."""
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        servicer = OrderServicer()
        c.add_service("shop", servicer, descriptor())
        await a.connect_to(b.address)
        await b.connect_to(c.address)
        await until(lambda: a._router.kind_of(RouteKey("shop", SERVICE, "Create")) is not None)
        async with aio.insecure_channel(a.address) as channel:
            yield Stub(channel), servicer, (a, b, c)


class Stub:
    """As protoc would make it."""

    def __init__(self, channel: Any) -> None:
        made = order_class()
        read, write = made.FromString, made.SerializeToString
        self.create = channel.unary_unary(f"/{SERVICE}/Create", write, read)
        self.fail = channel.unary_unary(f"/{SERVICE}/Fail", write, read)
        self.hold = channel.unary_unary(f"/{SERVICE}/Hold", write, read)
        self.list = channel.unary_stream(f"/{SERVICE}/List", write, read)
        self.sum = channel.stream_unary(f"/{SERVICE}/Sum", write, read)
        self.chat = channel.stream_stream(f"/{SERVICE}/Chat", write, read)


# -- kinds -------------------------------------------------------------------------------------------------------


@pytest.mark.weak_spot(25)
async def test_all_four_kinds_by_an_unmodified_stub(typed: Any) -> None:
    stub, _, _ = typed
    assert (await stub.create(order("a", 1), metadata=RAW)).sku == "A"
    assert [each.count async for each in stub.list(order("a", 5), metadata=RAW)] == [0, 1, 2, 3, 4]

    async def three() -> AsyncIterator[Any]:
        for number in (1, 2, 3):
            yield order("", number)

    assert (await stub.sum(three(), metadata=RAW)).count == 6
    assert [each.count async for each in stub.chat(three(), metadata=RAW)] == [-1, -2, -3]


@pytest.mark.weak_spot(25)
async def test_all_four_kinds_by_dispatch(hop: Any) -> None:
    a, _, _, _ = hop
    assert (await a.dispatch("shop", "Work", "Who")).output == "c"
    assert [each async for each in a.dispatch_stream("shop", "Work", "Numbers", 4)] == [0, 1, 2, 3]
    assert (await a.dispatch_stream("shop", "Work", "Total", [1, 2, 3])).output == 6
    chat = a.dispatch_stream("shop", "Work", "Chat", ["x", "y"])
    assert [each async for each in chat] == ["c:x", "c:y"]
    assert (await chat.result()).handled_by_collector_id == "c"


@pytest.mark.weak_spot(25)
async def test_a_conversation_goes_to_and_fro(typed: Any) -> None:
    """Each answer is there before the next question is asked: nothing waits for the half-close."""
    stub, _, _ = typed
    call = stub.chat(metadata=RAW, timeout=10)
    for number in range(5):
        await call.write(order("", number))
        assert (await call.read()).count == -number
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert await call.code() == grpc.StatusCode.OK


@pytest.mark.weak_spot(25)
async def test_a_reader_that_pauses_stops_the_writer(hop: Any) -> None:
    a, _, _, work = hop

    big = "x" * 100_000
    sent = 0

    async def endless() -> AsyncIterator[str]:
        nonlocal sent
        while True:
            yield big
            sent += 1

    async with a.dispatch_stream("shop", "Work", "Chat", endless()) as stream:
        assert (await anext(stream)).startswith("c:x")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        # It has stopped: what it was rid of is in the windows and the kernel's buffers of three connections.
        assert sent < 500  # 50 MB
        assert work.running == 0


@pytest.mark.weak_spot(25)
async def test_ending_early_reaches_the_handler(hop: Any) -> None:
    a, _, _, work = hop
    async with a.dispatch_stream("shop", "Work", "Numbers", 10**9) as stream:
        assert await anext(stream) == 0
        assert work.running == 1
    await until(lambda: (work.running, work.cancelled) == (0, 1), 2)
    assert a._router.in_flight == 0


async def test_an_input_that_fails_is_its_callers_own_error(hop: Any) -> None:
    a, _, _, _ = hop

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        async for _ in a.dispatch_stream("shop", "Work", "Total", broken()):
            pass
    assert a._router.in_flight == 0


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_payloads_of_any_size(hop: Any, size: int) -> None:
    a, _, c, _ = hop

    async def echo(context: Any, given: Any) -> Any:
        return given

    c.register_service("shop", "Echo", "Say", echo)
    await settled(a, "b", service="Work")
    await until(lambda: a._router.kind_of(RouteKey("shop", "Echo", "Say")) is not None)
    data = bytes(size)
    assert (await a.dispatch("shop", "Echo", "Say", data)).output == data


# -- metadata ----------------------------------------------------------------------------------------------------


@pytest.mark.weak_spot(27)
async def test_metadata_survives_hops_both_ways(hop: Any) -> None:
    a, _, _, _ = hop
    answer = await a.dispatch(
        "shop",
        "Work",
        "See",
        metadata=[("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\xff"), ("tracestate", "k=v")],
    )
    seen = answer.output["metadata"]
    assert [pair for pair in seen if pair[0] == "x-a"] == [["x-a", "1"], ["x-a", "2"]]
    assert ["x-b-bin", "00ff"] in seen
    assert ["tracestate", "k=v"] in seen
    assert not any(name.startswith("x-dodici-") for name, _ in seen)
    assert answer.metadata.get_list("x-seen") == ["1", "2"]
    assert answer.metadata["x-seen-bin"] == b"\x00\xfe"
    assert answer.metadata["x-id"] == "c"
    assert not any(name.startswith("x-dodici-") for name, _ in answer.metadata.multi_items())


@pytest.mark.weak_spot(27)
async def test_what_belongs_to_a_connection_goes_no_further(hop: Any) -> None:
    a, _, _, _ = hop
    async with aio.insecure_channel(a.address) as channel:
        see = channel.unary_unary("/Work/See")
        call = see(
            to_any(None).SerializeToString(),
            metadata=(
                *RAW,
                ("x-dodici-payload", "any"),
                ("x-dodici-path", "b,c"),
                ("x-dodici-caller", "root"),
                ("x-dodici-attempt", "7"),
                ("x-dodici-connection", "guessed"),
                ("keep-alive", "5"),
                ("x-mine", "1"),
            ),
        )
        await call
        trailing = dict(await call.trailing_metadata())
    assert trailing["x-dodici-handled-by"] == "c"
    answer = await a.dispatch("shop", "Work", "See", metadata={"x-mine": "1"})
    names = {name for name, _ in answer.output["metadata"]}
    assert names <= {"x-mine", "traceparent"}


async def test_a_path_that_a_client_presets_is_not_believed(hop: Any) -> None:
    """Else it would be refused as a loop."""
    a, b, _, _ = hop
    for collector in (a, b):
        async with aio.insecure_channel(collector.address) as channel:
            for path in ("a", "b", "a,b,c,d,e,f,g"):
                await channel.unary_unary("/Work/Who")(
                    b"",
                    metadata=(
                        *RAW,
                        ("x-dodici-payload", "any"),
                        ("x-dodici-path", path),
                        ("x-dodici-attempt", "9"),
                    ),
                )


@pytest.mark.weak_spot(27)
async def test_a_trace_is_one_over_all_hops(hop: Any) -> None:
    a, _, _, _ = hop
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = await a.dispatch(
        "shop", "Work", "See", metadata={"traceparent": f"00-{trace}-b7ad6b7169203331-00"}
    )
    assert answer.output["trace"] == trace


# -- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.weak_spot(5)
@pytest.mark.parametrize("code", [400, 403, 404, 409, 429, 499, 500, 503, 504])
async def test_an_answer_that_is_a_failure_is_passed_on_as_it_is(hop: Any, code: int) -> None:
    a, _, _, work = hop
    answer = await a.dispatch("shop", "Work", "Fail", code)
    assert (answer.status, answer.status.message) == (code, f"as told: {code}")
    assert answer.status.details["by"] == "c"
    assert answer.metadata["x-why"] == "c"
    assert answer.handled_by_collector_id == "c"
    assert work.counts == {"Fail": 1}


@pytest.mark.weak_spot(8)
async def test_a_failure_reaches_a_stub_with_its_code_details_and_trailers(typed: Any) -> None:
    stub, _, _ = typed
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.fail(order("abort", 409), metadata=RAW)
    error = caught.value
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS
    assert error.details() == "no such thing: ü"
    trailing = dict(error.trailing_metadata())
    assert trailing["x-why"] == "sold out"
    assert b"a-1" in trailing["grpc-status-details-bin"]
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.fail(order("code"), metadata=RAW)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "lost")


# -- what is tried again --------------------------------------------------------------------------------------------


async def pair(a: Collector, b: Collector, c: Collector) -> tuple[Any, Any]:
    works = serve(b), serve(c)
    await a.connect_to(b.address)
    await a.connect_to(c.address)
    return works


@pytest.mark.weak_spot(6)
async def test_what_may_have_been_run_is_not_run_again() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        works = await pair(a, b, c)
        assert (await a.dispatch("shop", "Work", "Fail", 503)).status == 503
        assert sum(work.counts.get("Fail", 0) for work in works) == 1


@pytest.mark.weak_spot(6)
async def test_what_is_idempotent_is_tried_at_the_other() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        works = await pair(a, b, c)
        answer = await a.dispatch("shop", "Work", "FailSafely", 503)
        assert answer.status == 503
        assert sorted(work.counts["Fail"] for work in works) == [1, 2]
        # A status that says something about the call is not tried again.
        assert (await a.dispatch("shop", "Work", "FailSafely", 400)).status == 400
        assert sum(work.counts["Fail"] for work in works) == 4


async def test_a_retry_that_succeeds_shows_nothing_of_the_failure() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        failed: list[str] = []

        def make(name: str) -> Any:
            async def flaky(context: Any, given: Any) -> Any:
                if not failed:
                    failed.append(name)
                    context.set_trailing_metadata({"x-failed": name})
                    context.abort(503)
                return name

            return flaky

        for one in (b, c):
            one.register_service("shop", "Flaky", "Do", make(one.id), idempotent=True)
            await a.connect_to(one.address)
        answer = await a.dispatch("shop", "Flaky", "Do")
        assert answer.status == 200
        assert [answer.output] != failed
        assert "x-failed" not in answer.metadata


async def test_only_the_entry_collector_tries_again() -> None:
    """Three attempts in all, and not three for each hop."""
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        work = serve(c)
        await a.connect_to(b.address)
        await b.connect_to(c.address)
        await settled(a, "b")
        assert (await a.dispatch("shop", "Work", "FailSafely", 503)).status == 503
        assert work.counts == {"Fail": 3}


async def test_pushback_is_obeyed() -> None:
    async with fleet(a={"retry": Retry(initial=0.0, cap=0.0)}, b={}) as (a, b):
        calls: list[float] = []

        async def refuse(context: Any, given: Any) -> Any:
            calls.append(time.monotonic())
            context._call.trailing = (("grpc-retry-pushback-ms", given),)
            context.abort(503)

        b.register_service("shop", "Busy", "Do", refuse, idempotent=True)
        await a.connect_to(b.address)
        assert (await a.dispatch("shop", "Busy", "Do", "-1")).status == 503
        assert len(calls) == 1
        calls.clear()
        assert (await a.dispatch("shop", "Busy", "Do", "100")).status == 503
        assert len(calls) == 3
        assert all(later - before >= 0.09 for before, later in pairwise(calls))


async def test_retries_are_within_the_budget() -> None:
    budget = Budget(ratio=0.2, min_per_second=0)
    async with fleet(
        a={"retry": Retry(budget=budget, initial=0.0, cap=0.0), "breaker": Breaker(failures=0)}, b={}
    ) as (a, b):
        work = serve(b)
        await a.connect_to(b.address)
        for _ in range(100):
            assert (await a.dispatch("shop", "Work", "FailSafely", 503)).status == 503
        assert 100 <= work.counts["Fail"] <= 120


async def test_calls_that_succeed_pay_for_the_retries_of_those_that_fail() -> None:
    budget = Budget(ratio=0.2, min_per_second=0)
    async with fleet(
        a={"retry": Retry(budget=budget, initial=0.0, cap=0.0), "breaker": Breaker(failures=0)}, b={}
    ) as (a, b):
        work = serve(b)
        await a.connect_to(b.address)
        for _ in range(50):
            assert (await a.dispatch("shop", "Work", "Who")).status == 200
        for _ in range(4):
            assert (await a.dispatch("shop", "Work", "FailSafely", 503)).status == 503
        # Ten are paid for, of which each of the four may have two.
        assert work.counts["Fail"] == 12


@pytest.mark.weak_spot(7)
@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_a_call_that_was_never_sent_goes_to_another(kind: str) -> None:
    async with fleet(a={"balance": "round_robin"}, b={}, c={}) as (a, b, c):
        works = await pair(a, b, c)
        # b is still believed to be there, but nothing listens any more where calls to it are sent.
        peer: Any = a._peers.get("b")
        dead = a._peers.channel("127.0.0.1:1")
        peer.channel, kept = dead, peer.channel
        peer.batch, batch = None, peer.batch
        try:
            for _ in range(6):
                if kind == "unary":
                    answer = await a.dispatch("shop", "Work", "Once")
                else:
                    answer = await a.dispatch_stream("shop", "Work", "Total", [1, 2])
                assert answer.status == 200
                assert answer.handled_by_collector_id == "c"
            refused = await a.dispatch("shop", "Work", "Once", target="b")
            assert refused.status == 503
            assert "collector b cannot be reached" in refused.status.message
        finally:
            peer.channel, peer.batch = kept, batch
            await dead.close()
        assert not works[0].counts


@pytest.mark.weak_spot(7)
async def test_a_call_that_was_never_run_behind_a_hop_goes_to_another() -> None:
    """a - b - d, where b has lost its way to d and a does not know yet; and a - c."""
    async with fleet(a={"balance": "round_robin"}, b={}, c={}, d={}) as (a, b, c, d):
        works = serve(c), serve(d)
        await a.connect_to(b.address)
        await b.connect_to(d.address)
        await settled(a, "b")
        router: Any = b._router
        real = router.choose

        def refuse(call: Any, tried: Any) -> Any:
            real(call, tried)
            raise router._unhealthy(call.key)

        router.choose = refuse
        await a.connect_to(c.address)
        await settled(a, "b", "c")
        # The nearest is c: make it look full, so that b is asked first.
        group = a._router.table.group(RouteKey("shop", "Work", "Once"))  # type: ignore[attr-defined]
        group.tiers.reverse()
        assert (await a.dispatch("shop", "Work", "Once")).output == "c"
        assert (works[0].counts, works[1].counts) == ({"Once": 1}, {})


async def test_a_breaker_opens_for_a_namespace_of_a_peer() -> None:
    async with fleet(a={"breaker": Breaker(failures=3)}, b={"namespaces": ["shop", "more"]}) as (a, b):
        work = serve(b)
        more = serve(b, namespace="more")
        await a.connect_to(b.address)
        await a.join("more")
        for _ in range(3):
            assert (await a.dispatch("shop", "Work", "Fail", 503)).status == 503
        answer = await a.dispatch("shop", "Work", "Who")
        assert (answer.status, answer.status.message) == (503, "no healthy collector for shop/Work.Who")
        assert 5000 < int(answer.metadata["grpc-retry-pushback-ms"]) <= 10_000
        assert "Who" not in work.counts
        assert (await a.dispatch("more", "Work", "Who")).output == "b"
        assert more.counts == {"Who": 1}


async def test_statuses_about_the_call_open_no_breaker() -> None:
    async with fleet(a={"breaker": Breaker(failures=1)}, b={}) as (a, b):
        serve(b)
        await a.connect_to(b.address)
        for code in (400, 403, 404, 409, 429, 500):
            assert (await a.dispatch("shop", "Work", "Fail", code)).status == code
        assert (await a.dispatch("shop", "Work", "Who")).output == "b"


# -- deadlines and cancellation ----------------------------------------------------------------------------------


async def test_a_deadline_shrinks_with_each_hop(hop: Any) -> None:
    a, b, c, _ = hop
    remaining = [
        (await one.dispatch("shop", "Work", "See", timeout=0.9)).output["remaining"] for one in (c, b, a)
    ]
    # On a call of its own grpc rounds a deadline up, by up to as much as a hop takes off.
    rounding = 0.0 if a._peers.get("b").batch is not None else 0.006
    assert 0.8 < remaining[0] < 0.9
    assert remaining[1] <= 0.895 + rounding
    assert remaining[2] <= 0.890 + rounding


async def test_without_a_deadline_there_is_the_default(hop: Any) -> None:
    a, _, _, _ = hop
    async with aio.insecure_channel(a.address) as channel:
        answer = await channel.unary_unary("/Work/See")(
            to_any(None).SerializeToString(), metadata=(*RAW, ("x-dodici-payload", "any"))
        )
    assert 29 < from_any(AnyMessage.FromString(answer))["remaining"] < 30


async def test_a_deadline_that_passes_is_told_in_time_and_cancels(hop: Any) -> None:
    a, _, _, work = hop
    began = time.monotonic()
    answer = await a.dispatch("shop", "Work", "Hold", timeout=0.3)
    assert answer.status == 504
    assert time.monotonic() - began < 5.0, "not the default of 30 s"
    await until(lambda: (work.running, work.cancelled) == (0, 1), 2)


async def test_an_expired_call_is_not_run(hop: Any) -> None:
    a, _, _, work = hop
    assert (await a.dispatch("shop", "Work", "Once", timeout=0.004)).status == 504
    assert (await a.dispatch("shop", "Work", "Once", timeout=1e-9)).status == 504
    assert work.counts == {}


async def test_a_cancelled_call_is_cancelled_at_the_handler(hop: Any) -> None:
    a, b, _, work = hop
    call = asyncio.create_task(a.dispatch("shop", "Work", "Hold"))
    await until(lambda: work.running == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: (work.running, work.cancelled) == (0, 1), 5)
    await until(lambda: (a._router.in_flight, b._router.in_flight) == (0, 0), 2)
    # Nobody is to blame for that.
    assert (await a.dispatch("shop", "Work", "Who")).status == 200
    assert all(not figures.ejected_for for figures in a._router.picker.stats().values())


async def test_a_stub_that_cancels_reaches_the_handler(typed: Any) -> None:
    stub, servicer, _ = typed
    call = stub.hold(order("x"), metadata=RAW)
    async with asyncio.timeout(5):
        await servicer.note("x started").wait()
        call.cancel()
        await servicer.note("x cancelled").wait()


async def test_an_attempt_that_takes_too_long_leaves_time_for_another() -> None:
    async with fleet(a={"retry": Retry(per_try_timeout=0.15), "balance": "round_robin"}, b={}, c={}) as (
        a,
        b,
        c,
    ):
        for one, seconds in ((b, 30), (c, 0)):

            async def slow(context: Any, given: Any, name: str = one.id, seconds: float = seconds) -> Any:
                await asyncio.sleep(seconds)
                return name

            one.register_service("shop", "Slow", "Do", slow, idempotent=True)
            await a.connect_to(one.address)
        for _ in range(4):
            assert (await a.dispatch("shop", "Slow", "Do", timeout=0.5)).output == "c"
