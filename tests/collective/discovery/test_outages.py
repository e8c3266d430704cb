"""etcd that is late, killed, stopped, wiped: who is known stays known, and everybody is registered again."""

from __future__ import annotations

import asyncio
import functools
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.collective.discovery.etcd_kit import (
    Etcd,
    Known,
    client_of,
    etcd,
    member_process,
    record,
    running,
)

from dodici.collective.discovery import EtcdClient, EtcdConfig, EtcdDiscovery
from dodici.collective.discovery.etcd import prefix_end
from dodici.collective.discovery.records import Claim
from dodici.collective.errors import PeerUnavailableError
from dodici.collective.protos import etcd_pb2 as pb

pytestmark = pytest.mark.timeout(60)


async def three(stack: AsyncExitStack, server: Etcd) -> list[Known]:
    """Three collectors that know each other."""
    known = [
        await stack.enter_async_context(running(EtcdDiscovery(server.url()), record(name, port=1000 + at)))
        for at, name in enumerate("abc")
    ]
    for each, others in zip(known, ("bc", "ac", "ab"), strict=True):
        await each.sees(*others)
    return known


def is_in(known: Known, name: str, namespaces: tuple[str, ...]) -> bool:
    return known.members[name].namespaces == namespaces


def has_changed(known: Known, other: str) -> bool:
    return other in known.watcher.ids("changed")


async def settled(known: list[Known]) -> None:
    """Return when etcd has answered all again, and whoever disappeared would have been removed."""
    async with asyncio.timeout(20):
        while not all(each.discovery.reachable for each in known):
            await asyncio.sleep(0.01)
        # The ttl and 1 s in which removals are held back.
        await asyncio.sleep(known[0].discovery.config.ttl + 1.2)


async def test_starting_waits_for_no_etcd(tmp_path: Path) -> None:
    with etcd(tmp_path) as server:
        server.kill()
        began = time.monotonic()
        async with running(EtcdDiscovery(server.url()), record("a", port=1001)) as a:
            assert time.monotonic() - began < 2.0
            async with asyncio.timeout(10):
                while a.discovery.problem is None:
                    await asyncio.sleep(0.01)
            assert isinstance(a.discovery.problem, PeerUnavailableError)
            assert f"etcd at {server.address} does not answer" in str(a.discovery.problem)
            assert not a.discovery.reachable
            server.restart()
            async with asyncio.timeout(10):
                await a.discovery.registered()
            assert a.discovery.problem is None
            async with running(EtcdDiscovery(server.url()), record("b", port=1002)):
                await a.sees("b")


async def test_who_is_known_stays_known_while_etcd_is_killed(own: Etcd) -> None:
    async with AsyncExitStack() as stack:
        known = await three(stack, own)
        own.kill()
        async with asyncio.timeout(10):
            while known[0].discovery.reachable:
                await asyncio.sleep(0.01)
        # Longer than the leases last: nothing may hang on them.
        await asyncio.sleep(3.0)
        assert all(len(each.members) == 2 for each in known)
        assert all(member.alive for each in known for member in each.members.values())
        own.restart()
        await settled(known)
        for each in known:
            await each.discovery.registered()
            assert each.watcher.ids("removed") == []
            assert len(each.members) == 2
            assert all(member.alive for member in each.members.values())
        async with running(EtcdDiscovery(own.url()), record("d", port=1004)) as late:
            await late.sees("a", "b", "c")
            await known[0].sees("b", "c", "d")


async def test_a_stopped_etcd_whose_leases_all_run_out_removes_nobody(own: Etcd) -> None:
    async with AsyncExitStack() as stack:
        known = await three(stack, own)
        epochs = {each.discovery.record.epoch for each in known if each.discovery.record}
        own.pause()
        await asyncio.sleep(4.0)
        assert all(len(each.members) == 2 for each in known)
        own.resume()
        await settled(known)
        for each in known:
            record = await each.discovery.registered()
            assert record.epoch not in epochs, "the lease had run out: this was to be a new registration"
            assert each.watcher.ids("removed") == []
            assert len(each.members) == 2
            assert all(member.alive for member in each.members.values())


async def test_who_died_while_etcd_was_away_is_removed_when_it_is_back(own: Etcd) -> None:
    async with running(EtcdDiscovery(own.url()), record("a", port=1001)) as a:
        async with running(EtcdDiscovery(own.url()), record("c", port=1003)):
            with member_process(own.url(), "b", 1002) as process:
                await a.sees("b", "c")
                own.kill()
                process.kill()
            await asyncio.sleep(1.0)
            assert set(a.members) == {"b", "c"}
            own.restart()
            await a.sees("c")
            assert a.watcher.ids("removed") == ["b"]


async def test_an_etcd_that_lost_its_data_is_filled_again(own: Etcd) -> None:
    async with AsyncExitStack() as stack:
        known = await three(stack, own)
        async with client_of(own.config()) as client:
            for _ in range(50):
                await client.put(b"/other", b"so that the revision is far from what it will be")
            await client.delete(b"/test/members/a")
        await known[1].watcher.until(lambda: known[1].watcher.ids("added").count("a") == 2)
        removed = [each.watcher.ids("removed") for each in known]
        epochs = [(await each.discovery.registered()).epoch for each in known]
        own.restart(wipe=True)
        await settled(known)
        for each, epoch, before in zip(known, epochs, removed, strict=True):
            again = await each.discovery.registered()
            assert epoch < again.epoch <= epoch + 2, "registered once, and not again and again"
            assert each.watcher.ids("removed") == before
            assert all(member.alive for member in each.members.values())
        async with running(EtcdDiscovery(own.url()), record("d", port=1004)) as late:
            await late.sees("a", "b", "c")
            await known[2].sees("a", "b", "d")


async def test_one_held_back_is_marked(own: Etcd) -> None:
    async with running(EtcdDiscovery(own.url()), record("a", port=1001)) as a:
        with member_process(own.url(), "b", 1002) as process:
            await a.sees("b")
            process.kill()
            own.restart(wipe=True)
        async with asyncio.timeout(10):
            while a.members["b"].alive:
                await asyncio.sleep(0.01)
        assert a.watcher.ids("removed") == []
        await a.sees()


async def test_stopping_does_not_wait_for_an_etcd_that_is_stopped(own: Etcd) -> None:
    config = EtcdConfig((own.address, f"localhost:{own.port}"), ttl=2, timeout=2.0)
    async with running(EtcdDiscovery(config), record("a", port=1001)) as a:
        await a.discovery.registered()
        own.pause()
        began = time.monotonic()
        await a.discovery.stop()
        assert time.monotonic() - began < 3.8, "one timeout, and not one for each endpoint"


async def test_all_keys_deleted_at_once_removes_nobody(shared: Etcd) -> None:
    url = shared.url("/at-once")
    async with running(EtcdDiscovery(url), record("a", port=1001)) as a:
        async with running(EtcdDiscovery(url), record("b", port=1002)) as b:
            await a.sees("b")
            await b.sees("a")
            async with client_of(shared.config()) as client:
                assert await client.delete(b"/at-once/", range_end=prefix_end(b"/at-once/")) == 2
            for each, other in ((a, "b"), (b, "a")):
                await each.watcher.until(functools.partial(has_changed, each, other))
                assert each.watcher.ids("removed") == []


async def test_a_lost_lease_makes_the_keys_be_listed_anew_and_doubted(
    shared: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An etcd that lost its data and has got as far again: the watch goes on as if nothing had happened.
    async with client_of(shared.config()) as client:
        there = Claim(record("b", port=1002), "of b", "p").encode()
        await client.put(b"/doubted/members/b", there)
        listed, renewed = EtcdClient.list, EtcdClient.renew
        listings: list[int] = []

        async def without_b(self: EtcdClient, prefix: bytes) -> tuple[list[pb.KeyValue], int]:
            keys, revision = await listed(self, prefix)
            listings.append(len(keys))
            return ([] if len(listings) == 2 else keys), revision

        async def once_refused(self: EtcdClient, lease: int) -> bool:
            monkeypatch.setattr(EtcdClient, "renew", renewed)
            return False

        monkeypatch.setattr(EtcdClient, "list", without_b)
        async with running(EtcdDiscovery(shared.url("/doubted")), record("a", port=1001)) as a:
            await a.sees("b")
            await a.discovery.registered()
            monkeypatch.setattr(EtcdClient, "renew", once_refused)
            async with asyncio.timeout(10):
                while a.members["b"].alive:
                    await asyncio.sleep(0.01)
            assert len(listings) == 2
            assert a.watcher.ids("removed") == []
            await a.sees()
        await client.delete(b"/doubted/members/b")


async def test_a_lease_that_ran_out_before_it_was_used_is_used_no_more(
    shared: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_if = EtcdClient.put_if

    async def too_late(self: EtcdClient, *args: Any, lease: int, **options: Any) -> Any:
        monkeypatch.setattr(EtcdClient, "put_if", put_if)
        await self.revoke(lease)
        raise PeerUnavailableError("no answer")

    monkeypatch.setattr(EtcdClient, "put_if", too_late)
    async with running(EtcdDiscovery(shared.url("/too-late")), record("a", port=1001)) as a:
        async with asyncio.timeout(5):
            await a.discovery.registered()


async def test_a_claim_whose_answer_was_lost_is_known_for_our_own(
    shared: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_if, revoke = EtcdClient.put_if, EtcdClient.revoke

    async def lost(self: EtcdClient, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(EtcdClient, "put_if", put_if)
        await put_if(self, *args, **options)
        raise PeerUnavailableError("no answer")

    async def not_now(self: EtcdClient, lease: int) -> None:
        monkeypatch.setattr(EtcdClient, "revoke", revoke)
        raise PeerUnavailableError("no answer")

    url = shared.url("/lost-answer")
    async with running(EtcdDiscovery(url), record("watch", port=1000)) as watch:
        monkeypatch.setattr(EtcdClient, "put_if", lost)
        monkeypatch.setattr(EtcdClient, "revoke", not_now)
        async with running(EtcdDiscovery(url, place="p"), record("a", port=1001)) as a:
            async with asyncio.timeout(5):
                first = await a.discovery.registered()
            await watch.watcher.until(
                lambda: "a" in watch.members and watch.members["a"].epoch == first.epoch
            )
            # The same for a later write, and one upon it.
            monkeypatch.setattr(EtcdClient, "put_if", lost)
            for namespaces in (("orders",), ("orders", "users")):
                await a.discovery.update(record("a", *namespaces, port=1001))
                await watch.watcher.until(functools.partial(is_in, watch, "a", namespaces))
            assert watch.members["a"].epoch == first.epoch
            assert watch.watcher.ids("removed") == []
