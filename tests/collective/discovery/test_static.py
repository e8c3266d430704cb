"""Lists of addresses, alone and beside other discoveries."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")

from tests.collective.discovery.etcd_kit import Watcher, record

from dodici.collective.contracts import Discovery, MemberRecord
from dodici.collective.discovery import CombinedDiscovery, StaticDiscovery
from dodici.collective.discovery.backoff import Backoff
from dodici.core.errors import InvalidArgumentError
from dodici.testing import run_virtual

A, B = "127.0.0.1:1001", "127.0.0.1:1002"


async def test_known_by_address_until_it_answers() -> None:
    discovery, watcher = StaticDiscovery([A, B, A, "127.0.0.1:1000"]), Watcher()
    assert isinstance(discovery, Discovery)
    await discovery.start(record("me", port=1000), watcher)
    assert [each.address for each in watcher.changes[0].added] == [A, B]
    assert set(discovery.members) == {A, B}
    assert not discovery.members[A].alive
    discovery.seen(A, MemberRecord("a", "0.0.0.0:5", ("users",), epoch=3, source="etcd"))
    assert set(discovery.members) == {"a", B}
    known = discovery.members["a"]
    assert (known.address, known.source, known.alive, known.epoch) == (A, "static", True, 3)
    assert known.last_seen > 0
    assert watcher.ids("changed") == ["a"]
    assert watcher.ids("removed") == []
    discovery.lost("a")
    assert not discovery.members["a"].alive
    assert discovery.members["a"].last_seen == known.last_seen
    discovery.seen("127.0.0.1:9", record("stranger"))
    assert set(discovery.members) == {"a", B}
    await discovery.stop()
    assert dict(discovery.members) == {}


async def test_another_collector_at_the_address_takes_the_place_of_the_first() -> None:
    discovery, watcher = StaticDiscovery([A]), Watcher()
    await discovery.start(record("me", port=1000), watcher)
    discovery.seen(A, record("a"))
    discovery.seen(A, record("b"))
    assert set(discovery.members) == {"b"}
    assert watcher.ids("removed") == ["a"]
    assert watcher.ids("added") == ["", "b"]
    discovery.seen(A, record("b"))
    assert len(watcher.changes) == 3, "that it was seen again is no change"
    await discovery.stop()


async def test_our_own_address_under_another_name_is_forgotten() -> None:
    discovery, watcher = StaticDiscovery(["localhost:1000"]), Watcher()
    await discovery.start(record("me", port=1000), watcher)
    discovery.seen("localhost:1000", record("me", port=1000))
    assert dict(discovery.members) == {}
    await discovery.stop()


def test_it_is_asked_until_it_answers_and_again_when_it_is_lost() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        asked: list[float] = []
        answers: list[Any] = []

        async def ask(address: str) -> MemberRecord:
            asked.append(loop.time())
            answer = answers.pop(0) if answers else ConnectionRefusedError(address)
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

        answers[:] = [
            ConnectionRefusedError(),
            InvalidArgumentError("not now"),
            ValueError("a bug"),
            record("a"),
        ]
        discovery, watcher = StaticDiscovery([A], ask=ask, initial=1.0, cap=2.0), Watcher()
        await discovery.start(record("me", port=1000), watcher)
        await watcher.until(lambda: "a" in discovery.members)
        waits = [after - before for before, after in itertools.pairwise(asked)]
        assert [0.5 <= waits[0] <= 1.0, 1.0 <= waits[1] <= 2.0, 1.0 <= waits[2] <= 2.0] == [True] * 3
        await asyncio.sleep(100)
        assert len(asked) == 4
        answers.append(record("a"))
        discovery.lost("a")
        await watcher.until(lambda: discovery.members["a"].alive)
        assert len(asked) == 5
        discovery.lost("a")
        await asyncio.sleep(10)
        assert len(asked) > 8
        await discovery.stop()
        count = len(asked)
        await asyncio.sleep(10)
        assert len(asked) == count

    run_virtual(main())


@pytest.mark.parametrize(
    ("addresses", "said"),
    [(["nowhere"], "not an address"), (["a:0"], "needs its port"), ("a:1", "addresses are a list")],
    ids=["form", "port 0", "str"],
)
def test_addresses_are_checked(addresses: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        StaticDiscovery(addresses)


async def test_started_once() -> None:
    discovery = StaticDiscovery([A])
    await discovery.start(record("me", port=1000), lambda change: None)
    with pytest.raises(InvalidArgumentError, match="started already"):
        await discovery.start(record("me", port=1000), lambda change: None)
    await discovery.stop()
    await discovery.start(record("me", port=1000), lambda change: None)
    await discovery.stop()


# -- several as one


async def test_each_collector_is_told_once() -> None:
    lists, watcher = [StaticDiscovery([A]), StaticDiscovery([A, B])], Watcher()
    both = CombinedDiscovery(lists)
    assert isinstance(both, Discovery)
    await both.start(record("me", port=1000), watcher)
    assert set(both.members) == {A, B}
    assert sorted(each.address for change in watcher.changes for each in change.added) == [A, B]
    lists[1].seen(A, record("a"))
    assert set(both.members) == {"a", B}, "the address that one part has no id for is that of the other's"
    assert watcher.ids("changed") == ["a"]
    lists[0].seen(A, record("a"))
    assert watcher.ids("changed") == ["a"]
    lists[1].lost("a")
    assert both.members["a"].alive, "the other part knows better"
    lists[0].lost("a")
    assert not both.members["a"].alive
    assert watcher.ids("removed") == []
    await both.update(record("me", port=1000))
    await both.withdraw()
    await both.stop()
    assert dict(both.members) == {}


async def test_parts_are_stopped_if_one_cannot_be_started() -> None:
    first, second = StaticDiscovery([A]), StaticDiscovery([B])
    await second.start(record("me", port=1000), lambda change: None)
    with pytest.raises(InvalidArgumentError, match="started already"):
        await CombinedDiscovery([first, second]).start(record("me", port=1000), lambda change: None)
    assert dict(first.members) == {}
    assert set(second.members) == {B}
    await second.stop()
    with pytest.raises(InvalidArgumentError, match="no discovery is given"):
        CombinedDiscovery([])


def test_waits_double_up_to_a_cap_and_spread() -> None:
    least, most = Backoff(0.1, 0.5, chance=lambda: 0.0), Backoff(0.1, 0.5, chance=lambda: 1.0)
    assert [round(least.next(), 3) for _ in range(4)] == [0.05, 0.1, 0.2, 0.25]
    assert [round(most.next(), 3) for _ in range(4)] == [0.1, 0.2, 0.4, 0.5]
    most.reset()
    assert round(most.next(), 3) == 0.1
