"""Discovery joined to a collector: members are found, connected to, kept while etcd is away, and let go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")

from tests.collective.discovery.etcd_kit import Etcd, etcd
from tests.collective.fleet import NAMESPACE, collector, processes, routed, serve, settled, until

from dodici.collective import CollectiveError, Collector, MemberRecord, neighbours
from dodici.collective.contracts import MembersChanged
from dodici.collective.discovery import EtcdDiscovery, StaticDiscovery
from dodici.collective.peers import Peers
from dodici.core.errors import InvalidArgumentError

OUTAGE = float(os.environ.get("DODICI_TEST_OUTAGE", "3"))
"""Seconds for which an etcd is away: longer than its leases last."""
NOBODY = "etcd://127.0.0.1:1/test?timeout=0.2"
"""A port on which nobody listens."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """An etcd that stays as it is: tests have their own prefixes in it."""
    with etcd(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def url(shared: Etcd, request: pytest.FixtureRequest) -> str:
    return shared.url(f"/{request.node.name}")


class Told:
    """A discovery that knows whom the test tells it."""

    members: Mapping[str, MemberRecord] = MappingProxyType({})

    def __init__(self) -> None:
        self.said: list[tuple[str, tuple[str, ...]]] = []
        """What the collector has it do, and the namespaces in its record."""
        self._on_change: Callable[[MembersChanged], None] | None = None

    async def start(self, self_record: MemberRecord, on_change: Callable[[MembersChanged], None]) -> None:
        self._on_change = on_change
        self.said.append(("start", self_record.namespaces))

    async def update(self, self_record: MemberRecord) -> None:
        self.said.append(("update", self_record.namespaces))

    async def withdraw(self) -> None:
        self.said.append(("withdraw", ()))

    async def stop(self) -> None:
        self.said.append(("stop", ()))

    def lists(self, *records: MemberRecord) -> None:
        before, self.members = self.members, {record.id: record for record in records}
        added = tuple(record for key, record in self.members.items() if key not in before)
        removed = tuple(record for key, record in before.items() if key not in self.members)
        assert self._on_change is not None
        self._on_change(MembersChanged(added, (), removed))


def entry(of: Any, *namespaces: str) -> MemberRecord:
    return MemberRecord(of.id, of.address, namespaces or (NAMESPACE,), source="etcd")


@contextlib.asynccontextmanager
async def serving(id: str, discovery: Any, **options: Any) -> AsyncIterator[Collector]:  # noqa: A002
    """A collector that serves Work, started."""
    made = collector(id, discovery=discovery, **options)
    serve(made)
    async with made:
        yield made


@contextlib.asynccontextmanager
async def calling(by: Collector, *, method: str = "Once") -> AsyncIterator[list[tuple[int, str]]]:
    """Calls go on meanwhile, 100 a second, each in its turn; their statuses, and who ran them."""
    ended: list[tuple[int, str]] = []
    stopping = asyncio.Event()

    async def run() -> None:
        while not stopping.is_set():
            result = await by.dispatch(NAMESPACE, "Work", method)
            ended.append((int(result.status), result.handled_by_collector_id))
            await asyncio.sleep(0.01)

    task = asyncio.create_task(run())
    try:
        yield ended
    finally:
        stopping.set()
        await task


def connected(of: Collector) -> dict[str, str]:
    """States of its connections, by collector."""
    return {each.collector_id: each.state for each in of.connections}


def known(of: Collector) -> set[str]:
    return {member.id for member in of.members}


# -- with an etcd ------------------------------------------------------------------------------------------------


async def test_who_joins_is_seen_by_all_within_a_second(url: str) -> None:
    async with serving("a", url) as a, serving("b", url) as b:
        await settled(a, "b")
        await settled(b, "a")
        async with serving("c", url) as c:
            joined = time.monotonic()
            for by, peers in ((a, "bc"), (b, "ac"), (c, "ab")):
                await settled(by, *peers)
            assert time.monotonic() - joined < 4.0
            assert known(a) == {"b", "c"}
            (member,) = (each for each in a.members if each.id == "c")
            assert (member.address, member.namespaces, member.source) == (c.address, (NAMESPACE,), "etcd")
            assert member.alive
            assert a.stats().members == a.members
        # It has left in order.
        await until(lambda: known(a) == {"b"} and connected(a) == {"b": "connected"})
        await until(lambda: connected(b) == {"a": "connected"})
    assert a.members == ()


async def test_a_collector_that_is_started_again_is_found_again(url: str) -> None:
    async with serving("a", url) as a, serving("b", url) as b:
        await settled(a, "b")
        await b.stop()
        await until(lambda: known(a) == set())
        assert b.members == ()
        await b.start()
        await settled(a, "b")
        await settled(b, "a")
        assert [each.address for each in a.members] == [b.address]


async def test_one_of_two_dials(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_YIELD", 60.0)
    dialled: list[tuple[str, str]] = []
    connect_to = Peers.connect_to

    async def noted(self: Peers, address: str, *arguments: Any, **options: Any) -> Any:
        result = await connect_to(self, address, *arguments, **options)
        dialled.append((self._own_id, result.target_collector_id))
        return result

    monkeypatch.setattr(Peers, "connect_to", noted)
    async with serving("b", url) as b, serving("c", url) as c, serving("a", url) as a:
        for by, peers in ((a, "bc"), (b, "ac"), (c, "ab")):
            await settled(by, *peers)
        await until(lambda: len(dialled) >= 3)
        assert sorted(dialled) == [("a", "b"), ("a", "c"), ("b", "c")]


async def test_members_of_other_namespaces_are_known_but_not_connected_to(url: str) -> None:
    async with (
        serving("a", url) as a,
        collector("b", discovery=url, namespaces=["orders"]) as b,
        collector("c", discovery=url, namespaces=[NAMESPACE, "orders"]) as c,
    ):
        await until(lambda: connected(c) == dict.fromkeys("ab", "connected"))
        await until(lambda: known(a) == {"b", "c"} and known(b) == {"a", "c"})
        assert "b" not in connected(a)
        assert "a" not in connected(b)


async def test_joining_and_leaving_a_namespace_is_seen_by_others(url: str) -> None:
    async with serving("a", url) as a, collector("b", discovery=url, namespaces=["orders"]) as b:

        def seen() -> tuple[str, ...]:
            return next((each.namespaces for each in b.members if each.id == "a"), ())

        await until(lambda: seen() == (NAMESPACE,))
        assert connected(b) == {}
        began = time.monotonic()
        await a.join("orders")
        await until(lambda: seen() == (NAMESPACE, "orders"))
        await until(lambda: connected(a) == {"b": "connected"} and connected(b) == {"a": "connected"})
        assert time.monotonic() - began < 4.0
        work = serve(b, "Orders", "orders")
        await settled_in(a, "orders", "Orders", "b")
        assert (await a.dispatch("orders", "Orders", "Who")).output == work.id
        await a.leave("orders")
        await until(lambda: seen() == (NAMESPACE,))
        # Registering a method joins, too.
        a.register_service("more", "Work", "Who", work.who)
        await until(lambda: seen() == (NAMESPACE, "more"))


async def settled_in(by: Collector, namespace: str, service: str, *peers: str) -> None:
    await until(lambda: routed(by, service, "Who", namespace) == set(peers))


async def test_draining_under_load_loses_nothing(url: str) -> None:
    async with collector("a", discovery=url) as a, serving("b", url) as b, serving("c", url) as c:
        await settled(a, "b", "c")
        async with calling(a) as ended:
            await until(lambda: {by for _, by in ended} == {"b", "c"})
            await b.drain()
            seen = len(ended)
            await until(lambda: len(ended) > seen + 50)
            assert connected(a)["b"] == "draining"
            await until(lambda: known(a) == {"c"})
            # Who comes now does not find it.
            async with collector("d", discovery=url) as d:
                await until(lambda: "c" in routed(d))
                assert known(d) == {"a", "c"}
                assert "b" not in connected(d)
            await b.stop()
            await until(lambda: "b" not in connected(a))
            seen = len(ended)
            await until(lambda: len(ended) > seen + 20)
        assert {status for status, _ in ended} == {200}
        assert {by for _, by in ended[seen:]} == {"c"}
        assert c.started


async def test_a_killed_member_takes_nothing_with_it_and_comes_back(url: str) -> None:
    async with processes() as launch, collector("a", discovery=url) as a:
        b, _ = await asyncio.gather(launch("b", discovery=url), launch("c", discovery=url))
        await settled(a, "b", "c")
        async with calling(a, method="Who") as ended:
            await until(lambda: {by for _, by in ended} == {"b", "c"})
            b.kill()
            await b.gone()
            await settled(a, "c")
            # Its lease runs out, and then nobody dials it any more.
            await until(lambda: known(a) == {"c"} and connected(a) == {"c": "connected"})
            await launch("b", discovery=url)
            await settled(a, "b", "c")
            seen = len(ended)
            await until(lambda: "b" in {by for _, by in ended[seen:]})
        # Idempotent: what was in flight there is repeated at the other.
        assert {status for status, _ in ended} == {200}


async def test_calls_go_on_while_etcd_is_away_and_who_joins_waits_for_it(tmp_path: Path) -> None:
    with etcd(tmp_path) as own:
        url = own.url()
        async with collector("a", discovery=url) as a, serving("b", url) as b, serving("c", url):
            await settled(a, "b", "c")
            await until(lambda: "c" in routed(b))
            async with calling(a) as ended:
                own.kill()
                async with serving("d", url) as d:
                    gone = time.monotonic()
                    await until(lambda: time.monotonic() - gone > OUTAGE, OUTAGE + 2)
                    assert d.members == ()
                    assert d.connections == ()
                    assert known(a) == {"b", "c"}
                    assert connected(a) == dict.fromkeys("bc", "connected")
                    await asyncio.to_thread(own.restart)
                    await settled(a, "b", "c", "d")
                    await until(lambda: {"b", "c"} <= routed(d))
                    await until(lambda: known(a) == {"b", "c", "d"})
                    seen = len(ended)
                    await until(lambda: {by for _, by in ended[seen:]} == set("bcd"))
                await settled(a, "b", "c")
            assert {status for status, _ in ended} == {200}
            assert len(ended) > 100


async def test_starting_and_ending_wait_for_no_etcd() -> None:
    began = time.monotonic()
    async with serving("a", NOBODY) as a:
        assert time.monotonic() - began < 4.0
        assert (await a.dispatch(NAMESPACE, "Work", "Who")).output == "a"
        assert a.members == ()
        began = time.monotonic()
        await a.drain()
        assert time.monotonic() - began < 4.0
    assert time.monotonic() - began < 2.0


# -- with a list of addresses ------------------------------------------------------------------------------------


async def test_a_list_of_addresses_is_connected_to(unused_tcp_port_factory: Callable[[], int]) -> None:
    later, own = (f"127.0.0.1:{unused_tcp_port_factory()}" for _ in range(2))
    async with serving("b", None) as b:
        listed = [b.address, later, own.replace("127.0.0.1", "localhost")]
        async with collector("a", own, discovery=listed) as a:
            await settled(a, "b")
            # Its own address is passed over, under another name, too.
            await until(lambda: {each.address for each in a.members} == {b.address, later})
            await until(lambda: known(a) == {"b", ""})
            member = next(each for each in a.members if each.id == "b")
            assert (member.namespaces, member.source, member.alive) == ((NAMESPACE,), "static", True)
            assert not next(each for each in a.members if not each.id).alive
            async with serving("c", None, address=later) as c:
                await settled(a, "b", "c")
                await until(lambda: connected(c) == {"a": "connected"})
                await until(lambda: {each.id for each in a.members if each.alive} == {"b", "c"})
            await until(lambda: {each.id for each in a.members if each.alive} == {"b"})
            # Started anew there, under another id.
            began = time.monotonic()
            async with serving("d", None, address=later):
                await settled(a, "b", "d")
                assert time.monotonic() - began < 3.0
                await until(lambda: {each.id for each in a.members if each.alive} == {"b", "d"})


async def test_a_list_beside_an_etcd(url: str) -> None:
    async with serving("b", None) as b, serving("c", url), collector("a", discovery=[b.address, url]) as a:
        await settled(a, "b", "c")
        await until(lambda: {each.id: each.source for each in a.members} == {"b": "static", "c": "etcd"})


# -- with any ----------------------------------------------------------------------------------------------------


async def test_a_link_that_works_outlives_the_record() -> None:
    told = Told()
    async with collector("a", discovery=told) as a, serving("b", None) as b:
        told.lists(entry(b))
        await settled(a, "b")
        told.lists()
        assert a.members == ()
        assert (await a.dispatch(NAMESPACE, "Work", "Who")).output == "b"
        assert connected(a) == {"b": "connected"}


async def test_who_has_neither_link_nor_record_is_let_go_unless_asked_for_by_hand() -> None:
    told = Told()
    async with processes() as launch, collector("a", discovery=told) as a:
        b, c = await asyncio.gather(launch("b"), launch("c"))
        await a.connect_to(b.address)
        told.lists(entry(b), entry(c))
        await settled(a, "b", "c")
        b.kill()
        c.kill()
        await until(lambda: connected(a) == {"b": "lost", "c": "lost"})
        told.lists()
        assert connected(a) == {"b": "lost"}


async def test_the_greater_id_dials_if_the_lesser_does_not() -> None:
    told = Told()
    async with serving("a", None) as a, collector("b", discovery=told) as b:
        told.lists(entry(a))
        began = time.monotonic()
        await settled(b, "a")
        assert time.monotonic() - began < 4.0


async def test_a_member_that_was_disconnected_comes_back() -> None:
    told = Told()
    async with collector("a", discovery=told) as a, serving("b", None) as b:
        told.lists(entry(b))
        await settled(a, "b")
        await a.disconnect("b")
        await settled(a, "b")


async def test_a_member_that_has_moved_is_found() -> None:
    told = Told()
    async with collector("a", discovery=told) as a:
        async with serving("b", None) as b:
            told.lists(replace(entry(b), address="127.0.0.1:1"))
            # What is being dialled in vain.
            await until(
                lambda: "dial b" in {task.get_name().rpartition(": ")[2] for task in asyncio.all_tasks()}
            )
            moved = time.monotonic()
            told.lists(entry(b))
            await settled(a, "b")
            assert time.monotonic() - moved < 4.0
        async with serving("b", None) as b:
            told.lists(entry(b))
            await settled(a, "b")


async def test_another_at_the_address_of_a_member_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    caplog.set_level("INFO", "dodici.collective.discovery")
    async with collector("a", discovery=told) as a, serving("stranger", None) as stranger:
        told.lists(replace(entry(stranger), id="b"))
        await until(lambda: "is stranger, and not b" in caplog.text)
        told.lists()
        await until(lambda: connected(a) == {} and connected(stranger) == {})


async def test_what_a_discovery_is_told() -> None:
    told = Told()
    async with serving("a", told) as a:
        await a.join("orders")
        await until(lambda: len(told.said) == 2)
        await a.drain()
        await a.join("late")
        # A pass of the task that would tell of it.
        told.lists()
        await asyncio.sleep(0)
    assert told.said == [
        ("start", (NAMESPACE,)),
        ("update", (NAMESPACE, "orders")),
        ("withdraw", ()),
        ("stop", ()),
    ]


@pytest.mark.parametrize(
    "discovery",
    [
        5,
        "",
        "nonsense",
        "127.0.0.1:50051",
        "etcd://",
        "etcd://127.0.0.1:2379?ttl=x",
        ["127.0.0.1:0"],
        object(),
    ],
    ids=["number", "empty", "word", "address", "no host", "option", "port 0", "object"],
)
def test_what_is_no_discovery_is_refused_at_once(discovery: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        collector("a", discovery=discovery)


@pytest.mark.parametrize(
    "make", [lambda: EtcdDiscovery(NOBODY), lambda: StaticDiscovery([])], ids=["etcd", "list"]
)
async def test_a_discovery_belongs_to_one_collector(make: Callable[[], Any]) -> None:
    discovery = make()
    async with collector("a", discovery=discovery):
        other = collector("b", discovery=discovery)
        with pytest.raises(InvalidArgumentError, match="started already"):
            await other.start()
        assert not other.started
        with pytest.raises(CollectiveError):
            await other.dispatch(NAMESPACE, "Work", "Who")


async def test_a_target_that_is_listed_and_was_never_connected_is_unavailable() -> None:
    discovery = Told()
    async with serving("a", discovery) as a:
        nobody = await a.dispatch(NAMESPACE, "Work", "Who", target="far")
        assert (nobody.status, "no such collector: 'far'" in nobody.status.message) == (404, True)
        discovery.lists(MemberRecord("far", "127.0.0.1:1", (NAMESPACE,), source="etcd"))
        listed = await a.dispatch(NAMESPACE, "Work", "Who", target="far")
        assert (listed.status, listed.status.message) == (503, "collector 'far' cannot be reached now")
        discovery.lists()
        assert (await a.dispatch(NAMESPACE, "Work", "Who", target="far")).status == 404
