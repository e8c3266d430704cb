"""Connect: mutual, one connection for each collector, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from typing import Any

import pytest
from grpc import aio
from tests.collective.fleet import collector, fleet, serve, settled, until

from dodici.collective import Breaker, CollectiveError, Collector, PeerUnavailableError
from dodici.collective.contracts import Connecting
from dodici.collective.peer import Peer
from dodici.collective.protos import collector_pb2 as pb
from dodici.core.errors import InvalidArgumentError

CONNECT = "/collector.CollectiveDispatcher/Connect"


async def call_connect(at: str, **fields: Any) -> pb.ConnectResponse:
    """As a collector of another make would."""
    async with aio.insecure_channel(at) as channel:
        method = channel.unary_unary(
            CONNECT, pb.ConnectRequest.SerializeToString, pb.ConnectResponse.FromString
        )
        return await method(pb.ConnectRequest(**fields), timeout=5)


def peers(of: Collector) -> list[str]:
    return [connection.collector_id for connection in of.connections]


@pytest.mark.weak_spot(1)
async def test_connect_is_mutual() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(a)
        result = await a.connect_to(b.address)
        assert (result.target_collector_id, result.shared_namespaces) == ("b", ("shop",))
        assert peers(b) == ["a"]
        answer = await b.dispatch("shop", "Work", "Who")
        assert (answer.status, answer.output, answer.handled_by_collector_id) == (200, "a", "a")


@pytest.mark.weak_spot(1)
async def test_a_client_of_the_one_that_was_called_reaches_the_caller() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(a)
        await a.connect_to(b.address)
        async with aio.insecure_channel(b.address) as channel:
            dispatch = channel.unary_unary(
                "/collector.CollectiveDispatcher/Dispatch",
                pb.DispatchRequest.SerializeToString,
                pb.DispatchResponse.FromString,
            )
            request = pb.DispatchRequest(namespace="shop", method_name="Who")
            request.service.service_name = "Work"
            request.input.Pack(pb.ServiceTypeRef())
            answer = await dispatch(request, timeout=5)
        # The input has an unknown type, which the handler sees as true and refuses to sleep for.
        assert answer.handled_by_collector_id == "a"


@pytest.mark.weak_spot(2)
async def test_a_target_is_found_by_its_id_whatever_address_it_was_reached_by() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(b)
        await a.connect_to(b.address.replace("127.0.0.1", "localhost"))
        answer = await a.dispatch("shop", "Work", "Who", target="b")
        assert (answer.status, answer.output) == (200, "b")
        # Where it has dialled back before its answer was here, that connection is used.
        assert [c.address.replace("localhost", "127.0.0.1") for c in a.connections] == [b.address]


@pytest.mark.weak_spot(10)
async def test_shared_namespaces_are_the_intersection() -> None:
    async with fleet(a={"namespaces": ["users", "orders"]}, b={"namespaces": ["orders", "inventory"]}) as (
        a,
        b,
    ):
        serve(b, namespace="users")  # joins it
        await b.leave("users")
        serve(b, namespace="orders")
        result = await a.connect_to(b.address, ["users", "orders", "orders"])
        assert result.shared_namespaces == ("orders",)
        assert (await a.dispatch("orders", "Work", "Who")).output == "b"
        assert (await a.dispatch("users", "Work", "Who")).status == 404
        assert (await a.dispatch("users", "Work", "Who", target="b")).status == 404


async def test_duplicates_in_connect_give_one_entry() -> None:
    async with fleet(a={"namespaces": ["users", "orders"]}) as (a,):
        answer = await call_connect(
            a.address, collector_id="x", address="127.0.0.1:9", namespaces=["orders", "orders", "else"]
        )
        assert (answer.status.code, list(answer.shared_namespaces)) == (200, ["orders"])


async def test_only_the_namespaces_that_were_named_are_shared() -> None:
    async with fleet(a={"namespaces": ["shop", "extra"]}, b={"namespaces": ["shop", "extra"]}) as (a, b):
        serve(a, namespace="extra")
        serve(b)
        serve(b, namespace="extra")
        result = await a.connect_to(b.address, ["shop"])
        assert result.shared_namespaces == ("shop",)
        assert (await a.dispatch("shop", "Work", "Who")).output == "b"
        assert (await a.dispatch("extra", "Work", "Who", target="b")).status == 404
        # Nor the other way.
        assert [c.shared_namespaces for c in b.connections] == [("shop",)]
        again = await a.connect_to(b.address)
        assert again.shared_namespaces == ("shop", "extra")
        assert (await a.dispatch("extra", "Work", "Who", target="b")).output == "b"


async def test_names_that_the_caller_lacks_are_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with fleet(a={}, b={"namespaces": ["shop", "other"]}) as (a, b):
        with caplog.at_level(logging.WARNING, "dodici.collective"):
            result = await a.connect_to(b.address, ["shop", "other"])
        assert result.shared_namespaces == ("shop",)
        assert "a is not in 'other'" in caplog.text


@pytest.mark.weak_spot(12)
async def test_connecting_twice_is_one_connection() -> None:
    async with fleet(a={}, b={}) as (a, b):
        first = await a.connect_to(b.address)
        channel = a._peers.get("b").channel  # type: ignore[union-attr]
        assert await a.connect_to(b.address) == first
        assert await a.connect_to(b.address.replace("127.0.0.1", "localhost")) == first
        await b.connect_to(a.address)
        assert peers(a) == ["b"]
        assert peers(b) == ["a"]
        assert a._peers.get("b").channel is channel  # type: ignore[union-attr]
        await a._peers.disposed()


@pytest.mark.weak_spot(12)
async def test_connecting_many_times_at_once_is_one_connection() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(b)
        results = await asyncio.gather(
            *(a.connect_to(b.address) for _ in range(10)), *(b.connect_to(a.address) for _ in range(10))
        )
        assert {r.connection_id for r in results[:10]} == {a._peers.get("b").connection}  # type: ignore[union-attr]
        assert (peers(a), peers(b)) == (["b"], ["a"])
        assert (await a.dispatch("shop", "Work", "Who")).output == "b"


@pytest.mark.weak_spot(20)
async def test_an_id_that_is_in_use_is_refused_from_another_address() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(b)
        await a.connect_to(b.address)
        answer = await call_connect(
            a.address, collector_id="b", address="127.0.0.1:9", namespaces=["shop"], epoch=2**60
        )
        assert (answer.status.code, answer.status.details["grpc-status"]) == (409, "ALREADY_EXISTS")
        assert answer.connection_id == ""
        assert (await a.dispatch("shop", "Work", "Who", target="b")).output == "b"
        assert [c.address for c in a.connections] == [b.address]


@pytest.mark.weak_spot(20)
async def test_a_second_collector_of_the_same_id_is_told_so() -> None:
    async with fleet(a={}, b={}) as (a, b):
        await a.connect_to(b.address)
        async with collector("b") as other:
            with pytest.raises(CollectiveError) as caught:
                await other.connect_to(a.address)
            assert caught.value.status == 409
            assert other.connections == ()


async def test_the_id_of_the_collector_itself_is_taken() -> None:
    async with fleet(a={}) as (a,):
        answer = await call_connect(a.address, collector_id="a", address="127.0.0.1:9")
        assert answer.status.code == 409
        with pytest.raises(CollectiveError) as caught:
            await a.connect_to(a.address)
        assert caught.value.status in {400, 409}
        assert a.connections == ()


@pytest.mark.parametrize(
    ("collector_id", "address"),
    [("", "127.0.0.1:9"), ("x", ""), ("x y", "127.0.0.1:9"), ("x", "nowhere"), ("x", "127.0.0.1:0")],
)
async def test_what_is_no_id_and_no_address_is_refused(collector_id: str, address: str) -> None:
    async with fleet(a={}) as (a,):
        answer = await call_connect(a.address, collector_id=collector_id, address=address)
        assert answer.status.code == 400
        assert a.connections == ()


async def test_nobody_there_is_unavailable_and_keeps_nothing(unused_tcp_port: int) -> None:
    async with fleet(a={}) as (a,):
        with pytest.raises(PeerUnavailableError, match=f"127.0.0.1:{unused_tcp_port} for 0.3 s"):
            await a.connect_to(f"127.0.0.1:{unused_tcp_port}", timeout=0.3)
        assert a.connections == ()


async def test_why_nobody_answers_is_told_early_and_in_the_end(
    unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"

    def told() -> list[str]:
        return [each.message for each in caplog.records if each.levelno == logging.WARNING]

    async with fleet(a={}) as (a,):
        with pytest.raises(PeerUnavailableError, match=f"at {address} for 0.5 s: .*Connection refused"):
            await a.connect_to(address, timeout=0.5)
        connecting = asyncio.ensure_future(a.connect_to(address))
        assert len(told()) == 1  # once, however often it is tried
        assert f"a: no connection to {address} yet" in told()[0]
        # It is waited for all the same.
        async with collector("b", address):
            assert (await connecting).target_collector_id == "b"
        await until(lambda: a.connections[0].state == "lost")
        assert len(told()) == 1


async def test_wrong_arguments_are_told_at_once() -> None:
    async with fleet(a={}) as (a,):
        for address, namespaces, timeout in (
            ("nowhere", None, 1.0),
            ("127.0.0.1:9", "shop", 1.0),
            ("127.0.0.1:9", ["no/name"], 1.0),
            ("127.0.0.1:9", None, 0),
            ("127.0.0.1:0", None, 1.0),
        ):
            with pytest.raises(InvalidArgumentError):
                await a.connect_to(address, namespaces, timeout=timeout)
    with pytest.raises(CollectiveError, match="not started"):
        await a.connect_to("127.0.0.1:9")


async def test_disconnect_ends_it_at_both_ends() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(a)
        serve(b)
        result = await a.connect_to(b.address)
        await a.disconnect(result.connection_id)
        assert a.connections == ()
        await until(lambda: b.connections == ())
        assert (await a.dispatch("shop", "Work", "Who", target="b")).status == 404
        assert (await b.dispatch("shop", "Work", "Who", target="a")).status == 404
        with pytest.raises(CollectiveError) as caught:
            await a.disconnect("b")
        assert caught.value.status == 404
        await b.connect_to(a.address)
        await b.disconnect("a")
        assert b.connections == ()


async def test_calls_at_a_peer_that_is_disconnected_fail_as_unavailable() -> None:
    async with fleet(a={}, b={}) as (a, b):
        work = serve(b)
        await a.connect_to(b.address)
        call = asyncio.create_task(a.dispatch("shop", "Work", "Hold"))
        streamed = asyncio.create_task(a.dispatch_stream("shop", "Work", "Chat", _endless()).result())
        await until(lambda: work.running == 1)
        await a.disconnect("b")
        assert (await call).status == 503
        assert (await streamed).status == 503
        await until(lambda: work.cancelled == 1)


async def _endless() -> Any:
    yield 1
    await asyncio.Event().wait()


@pytest.mark.weak_spot(23)
async def test_port_0_is_advertised_as_what_it_became() -> None:
    async with fleet(a={}, b={}) as (a, b):
        assert not b.address.endswith(":0")
        answer = await call_connect(b.address, collector_id="x", address="127.0.0.1:9")
        assert answer.address == b.address
        await a.connect_to(b.address)
        assert [c.address for c in b.connections if c.collector_id == "a"] == [a.address]


async def test_over_a_unix_socket(tmp_path: Any) -> None:
    async with (
        collector("a", f"unix:{tmp_path}/a") as a,
        collector("b", f"unix:{tmp_path}/b") as b,
    ):
        serve(a)
        serve(b)
        await a.connect_to(b.address)
        assert (await a.dispatch("shop", "Work", "Who", target="b")).output == "b"
        assert (await b.dispatch("shop", "Work", "Who", target="a")).output == "a"


async def test_peers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dodici.collective.arrivals.MOST_PEERS", 2)
    async with fleet(a={}) as (a,):
        for name in ("x", "y"):
            assert (
                await call_connect(a.address, collector_id=name, address="127.0.0.1:9")
            ).status.code == 200
        refused = await call_connect(a.address, collector_id="z", address="127.0.0.1:9")
        assert refused.status.code == 429
        assert peers(a) == ["x", "y"]


async def test_a_peer_that_came_by_itself_and_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dodici.collective.keeper._GIVEN_UP", 0.2)
    monkeypatch.setattr("dodici.collective.keeper._GREETING", 0.1)
    async with fleet(a={}) as (a,):
        await call_connect(a.address, collector_id="x", address="127.0.0.1:9")
        assert peers(a) == ["x"]
        await until(lambda: a.connections == ())


async def test_a_restarted_peer_gets_another_connection_id_and_the_old_one_is_worth_nothing() -> None:
    async with fleet(a={}) as (a,):
        first = await call_connect(a.address, collector_id="x", address="127.0.0.1:9", epoch=1)
        again = await call_connect(a.address, collector_id="x", address="127.0.0.1:9", epoch=1)
        assert again.connection_id == first.connection_id
        newer = await call_connect(a.address, collector_id="x", address="127.0.0.1:9", epoch=2)
        assert newer.connection_id != first.connection_id
        book = a._service.peers
        from dodici.collective.contracts import Identity

        assert book.recognise(first.connection_id, "", Identity()) is None
        assert book.recognise(newer.connection_id, "", Identity()) == "x"


async def test_a_peer_that_comes_back_elsewhere_is_found_there_and_begins_anew() -> None:
    async with fleet(a={"breaker": Breaker(failures=1, open_for=600)}, b={}) as (a, b):
        serve(b)
        await a.connect_to(b.address)
        assert (await a.dispatch("shop", "Work", "Fail", 503)).status == 503
        assert (await a.dispatch("shop", "Work", "Who")).status == 503  # its breaker is open
        before = b.address
        await b.stop()
        await settled(a)
        async with collector("b") as again:
            assert again.address != before
            serve(again)
            await again.connect_to(a.address)
            await settled(a, "b")
            assert (await a.dispatch("shop", "Work", "Who")).output == "b"
            assert [c.address for c in a.connections] == [again.address]


async def test_with_tls_a_connection_id_counts_only_with_its_certificate() -> None:
    from dodici.collective.contracts import Identity

    async with fleet(a={}) as (a,):
        mine, other = (
            Identity(("spiffe://t/ns/shop/collector/x",), tls=True),
            Identity(("spiffe://t/ns/shop/collector/y",), tls=True),
        )
        request = Connecting("x", "127.0.0.1:9", ("shop",), 1, "", mine)
        connected = await a._service.peers.connect(request)
        assert a._service.peers.recognise(connected.connection_id, "", mine) == "x"
        assert a._service.peers.recognise(connected.connection_id, "", other) is None


@pytest.mark.weak_spot(21)
async def test_everything_at_once_loses_nothing() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        serve(a)
        serve(b)
        serve(c)
        await asyncio.gather(a.connect_to(b.address), a.connect_to(c.address))
        statuses: list[int] = []

        async def one(number: int) -> None:
            match number % 5:
                case 0:
                    try:
                        await a.connect_to((b, c)[number % 2].address)
                    except PeerUnavailableError:
                        assert number % 2  # only c closes connections
                case 1:
                    a.set_registry_validator((lambda *_: True) if number % 2 else None)
                case 2:
                    # Or somebody else was first.
                    with contextlib.suppress(CollectiveError):
                        await c.disconnect("a")
                case _:
                    statuses.append(int((await a.dispatch("shop", "Work", "Who", target="b")).status))

        async with asyncio.timeout(30):
            await asyncio.gather(*(one(number) for number in range(200)))
        assert statuses == [200] * 80
        await a.connect_to(c.address)
        await settled(a, "b", "c")
        assert sorted(peers(a)) == ["b", "c"]


async def test_many_connections_that_came_and_went_leave_nothing() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(b)

        async def once() -> None:
            await a.connect_to(b.address)
            assert (await a.dispatch("shop", "Work", "Who")).status == 200
            await a.disconnect("b")
            await until(lambda: b.connections == ())
            await b._peers.disposed()

        def held() -> tuple[int, int]:
            gc.collect()
            return len(asyncio.all_tasks()), sum(type(each) is Peer for each in gc.get_objects())

        for _ in range(5):
            await once()
        before = held()
        for _ in range(50):
            await once()

        def left() -> bool:
            return any(now > then + 2 for now, then in zip(held(), before, strict=True))

        await until(lambda: not left())  # what ends may take a few turns
        for one in (a, b):
            assert not one._peers._tokens
            assert not one._router.table._sources  # type: ignore[attr-defined]
            assert not one._router.picker.stats()  # type: ignore[attr-defined]
