"""Collectors that come, go, change and die, in a real etcd."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
from tests.collective.discovery.etcd_kit import Etcd, client_of, member_process, record, running

from dodici.collective.contracts import Discovery
from dodici.collective.discovery import EtcdDiscovery, IdTakenError
from dodici.core.errors import ClientClosedError, InvalidArgumentError

pytestmark = pytest.mark.timeout(60)


async def test_collectors_see_each_other_come_and_leave(shared: Etcd) -> None:
    url = shared.url("/come-and-leave")
    async with running(EtcdDiscovery(url), record("a", "users", "orders", port=1001)) as a:
        await a.discovery.registered()
        async with running(EtcdDiscovery(url), record("b", port=1002, started=17.5)) as b:
            await a.sees("b")
            await b.sees("a")
            seen = b.members["a"]
            assert (seen.address, seen.namespaces, seen.source) == (
                "127.0.0.1:1001",
                ("users", "orders"),
                "etcd",
            )
            assert seen.alive
            assert abs(seen.last_seen - time.time()) < 10
            assert abs(seen.started - time.time()) < 60
            assert seen.epoch == a.discovery.record.epoch  # type: ignore[union-attr]
            assert a.members["b"].started == 17.5
            left = time.monotonic()
        await a.sees()
        assert time.monotonic() - left < 1.5, "who stops gives its lease back, and is not waited for"
        assert a.watcher.ids("added") == ["b"]
        assert a.watcher.ids("removed") == ["b"]


async def test_is_a_discovery(shared: Etcd) -> None:
    assert isinstance(EtcdDiscovery(shared.url("/is")), Discovery)


async def test_a_change_of_namespaces_is_seen_and_keeps_the_epoch(shared: Etcd) -> None:
    url = shared.url("/namespaces")
    async with running(EtcdDiscovery(url), record("a", port=1001)) as a:
        async with running(EtcdDiscovery(url), record("b", "users", port=1002)) as b:
            await a.sees("b")
            before = a.members["b"]
            await b.discovery.update(record("b", "users", "orders", port=1002))
            await a.watcher.until(lambda: a.members["b"].namespaces == ("users", "orders"))
            await b.discovery.update(record("b", port=1002, started=before.started))
            await a.watcher.until(lambda: a.members["b"].namespaces == ("users",))
            after = a.members["b"]
            assert (after.epoch, after.started) == (before.epoch, before.started)
            assert a.watcher.ids("added") == ["b"]
            assert a.watcher.ids("changed") == ["b", "b"]
            with pytest.raises(InvalidArgumentError, match="the id of a collector stays: 'b', not 'c'"):
                await b.discovery.update(record("c", port=1002))


async def test_who_withdraws_is_gone_and_still_sees(shared: Etcd) -> None:
    url = shared.url("/withdraw")
    async with running(EtcdDiscovery(url), record("a", port=1001)) as a:
        async with running(EtcdDiscovery(url), record("b", port=1002)) as b:
            await a.sees("b")
            await b.discovery.withdraw()
            await a.sees()
            assert b.discovery.record is None
            async with running(EtcdDiscovery(url), record("c", port=1003)):
                await b.sees("a", "c")


async def test_a_killed_collector_goes_with_its_lease(shared: Etcd) -> None:
    url = shared.url("/killed")
    async with running(EtcdDiscovery(url), record("a", port=1001)) as a:
        with member_process(url, "b", 1002) as process:
            await a.sees("b")
            process.kill()
            killed = time.monotonic()
            await a.sees()
            assert 0.5 < time.monotonic() - killed < 8
            assert a.watcher.ids("removed") == ["b"]


async def test_a_stopped_collector_comes_back_with_a_higher_epoch(shared: Etcd) -> None:
    url = shared.url("/stopped")
    async with running(EtcdDiscovery(url), record("a", port=1001)) as a:
        with member_process(url, "b", 1002) as process:
            await a.sees("b")
            epoch = a.members["b"].epoch
            os.kill(process.pid, signal.SIGSTOP)
            await a.sees()
            os.kill(process.pid, signal.SIGCONT)
            await a.sees("b")
            assert a.members["b"].epoch > epoch


async def test_the_second_claimant_is_refused_and_gets_the_id_when_it_is_free(shared: Etcd) -> None:
    url = shared.url("/claim")
    async with running(EtcdDiscovery(url), record("watch", port=1000)) as watch:
        with member_process(url, "a", 1001) as first:
            await watch.sees("a")
            epoch = watch.members["a"].epoch
            async with running(EtcdDiscovery(url), record("a", port=1002)) as second:
                with pytest.raises(
                    IdTakenError,
                    match=r"collector id 'a' is taken: the collector at 127\.0\.0\.1:1001 has it, epoch \d+, started 20",
                ) as refused:
                    await second.discovery.registered()
                assert refused.value.status == 409
                assert refused.value.holder is not None
                assert refused.value.holder.epoch == epoch
                assert isinstance(second.discovery.problem, IdTakenError)
                assert second.discovery.record is None
                await second.sees("watch")
                assert watch.members["a"].address == "127.0.0.1:1001"
                first.kill()
                await watch.watcher.until(
                    lambda: "a" in watch.members and watch.members["a"].address.endswith("1002")
                )
                assert (await second.discovery.registered(even_if_taken=True)).epoch > epoch
                assert second.discovery.problem is None


async def test_one_that_is_not_to_wait_stays_refused(shared: Etcd) -> None:
    url = shared.url("/no-wait")
    async with running(EtcdDiscovery(url), record("watch", port=1000)) as watch:
        async with running(EtcdDiscovery(url), record("a", port=1001)):
            await watch.sees("a")
            second = EtcdDiscovery(url, wait=False)
            await second.start(record("a", port=1002), lambda change: None)
            with pytest.raises(IdTakenError):
                await second.registered()
        await watch.sees()
        try:
            with pytest.raises(IdTakenError):
                await second.registered()
            assert watch.members == {}
        finally:
            await second.stop()


async def test_a_restart_at_the_same_place_takes_its_id_over_at_once(shared: Etcd) -> None:
    url = shared.url("/restart", ttl=30)
    async with running(EtcdDiscovery(url), record("watch", port=1000)) as watch:
        with member_process(url, "a", 1001) as process:
            await watch.sees("a")
            epoch = watch.members["a"].epoch
            process.kill()
            process.wait(10)
        with member_process(url, "a", 1001):
            await watch.watcher.until(lambda: watch.members["a"].epoch > epoch, timeout=10)
            assert watch.watcher.ids("removed") == []


async def test_one_that_was_taken_over_steps_back(shared: Etcd) -> None:
    url = shared.url("/step-back")
    async with running(EtcdDiscovery(url, place="p"), record("a", port=1001)) as older:
        first = await older.discovery.registered()
        async with running(EtcdDiscovery(url, place="p"), record("a", port=1002)) as newer:
            second = await newer.discovery.registered()
            assert second.epoch > first.epoch
            async with asyncio.timeout(10):
                while not isinstance(older.discovery.problem, IdTakenError):
                    await asyncio.sleep(0.01)
            assert older.discovery.record is None
            assert newer.discovery.record == second
        async with asyncio.timeout(10):
            again = await older.discovery.registered(even_if_taken=True)
        assert again.epoch > second.epoch


async def test_a_record_that_was_deleted_is_written_again(shared: Etcd) -> None:
    url = shared.url("/deleted")
    async with running(EtcdDiscovery(url), record("watch", port=1000)) as watch:
        async with running(EtcdDiscovery(url), record("a", port=1001)):
            await watch.sees("a")
            epoch = watch.members["a"].epoch
            async with client_of(shared.config()) as client:
                assert await client.delete(b"/deleted/members/a") == 1
            await watch.watcher.until(lambda: watch.watcher.ids("added") == ["a", "a"])
            assert watch.members["a"].epoch > epoch


async def test_a_lease_that_was_ended_is_replaced(shared: Etcd) -> None:
    url = shared.url("/ended")
    async with running(EtcdDiscovery(url), record("a", port=1001)) as a:
        first = await a.discovery.registered()
        async with client_of(shared.config()) as client:
            there, _ = await client.get(b"/ended/members/a")
            assert there is not None
            await client.revoke(there.lease)
            async with asyncio.timeout(10):
                while a.discovery.record in {None, first}:
                    await asyncio.sleep(0.01)
            again, _ = await client.get(b"/ended/members/a")
            assert again is not None
            assert again.lease not in {0, there.lease}
    assert a.discovery.record is None


async def test_stopping_leaves_nothing_in_etcd(shared: Etcd) -> None:
    async with running(EtcdDiscovery(shared.url("/nothing")), record("a", port=1001)) as a:
        await a.discovery.registered()
    async with client_of(shared.config()) as client:
        assert (await client.list(b"/nothing"))[0] == []


async def test_what_is_no_record_is_passed_over(shared: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    url = shared.url("/odd")
    values = {
        b"text": b"hello",
        b"list": b"[]",
        b"nameless": b'{"address": "127.0.0.1:1"}',
        b"placeless": b'{"id": "placeless", "address": "nowhere"}',
        b"other": b'{"id": "x", "address": "127.0.0.1:1"}',
        b"epoch": b'{"id": "epoch", "address": "127.0.0.1:1", "epoch": "one"}',
        b"new": b'{"id": "new", "address": "127.0.0.1:1", "epoch": 1, "from a later version": {}}',
    }
    async with client_of(shared.config()) as client:
        for name, value in values.items():
            await client.put(b"/odd/members/" + name, value)
    async with running(EtcdDiscovery(url), record("a", port=1001)) as a:
        await a.sees("new")
    for name in ("text", "list", "nameless", "placeless", "other", "epoch"):
        assert f"/odd/members/{name}'" in caplog.text


async def test_an_id_of_any_characters_is_one_key(shared: Etcd) -> None:
    url = shared.url("/any")
    async with running(EtcdDiscovery(url), record("a", port=1001)) as a:
        async with running(EtcdDiscovery(url), record("east:1%2", port=1002)):
            await a.sees("east:1%2")
            async with client_of(shared.config()) as client:
                keys = [key.key for key in (await client.list(b"/any/"))[0]]
            assert keys == [b"/any/members/a", b"/any/members/east%3A1%252"]


async def test_a_callback_that_fails_stops_nothing(shared: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    discovery = EtcdDiscovery(shared.url("/callback"))

    def fails(change: Any) -> None:
        raise ValueError("of the callback")

    await discovery.start(record("a", port=1001), fails)
    try:
        async with running(EtcdDiscovery(shared.url("/callback")), record("b", port=1002)) as b:
            await b.sees("a")
            async with asyncio.timeout(10):
                while "of the callback" not in caplog.text:
                    await asyncio.sleep(0.01)
            assert set(discovery.members) == {"b"}
    finally:
        await discovery.stop()


@pytest.mark.parametrize(
    ("self_record", "said"),
    [
        (record(""), "id is empty"),
        (record("a/b"), "id may"),
        (record("a", "b/c"), "namespace may"),
        (record("a", port=0), "others cannot reach port 0"),
    ],
    ids=["no id", "slash", "namespace", "port"],
)
async def test_a_record_that_cannot_be_used_is_refused(shared: Etcd, self_record: Any, said: str) -> None:
    discovery = EtcdDiscovery(shared.url("/refused"))
    with pytest.raises(InvalidArgumentError, match=said):
        await discovery.start(self_record, lambda change: None)
    await discovery.stop()


async def test_it_is_started_once_and_can_be_started_again(shared: Etcd) -> None:
    discovery = EtcdDiscovery(shared.url("/again"))
    assert dict(discovery.members) == {}
    with pytest.raises(ClientClosedError, match="not started"):
        await discovery.registered()
    async with running(discovery, record("a", port=1001)):
        with pytest.raises(InvalidArgumentError, match="started already"):
            await discovery.start(record("b", port=1002), lambda change: None)
        first = await discovery.registered()
    with pytest.raises(ClientClosedError, match="not started"):
        await discovery.update(record("a", port=1001))
    async with running(discovery, record("a", port=1001)):
        assert (await discovery.registered()).epoch > first.epoch
