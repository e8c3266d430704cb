"""Endpoints of etcd that die, fall silent, or lose their connections."""

from __future__ import annotations

import asyncio
import functools
import socket

import pytest
from tests.collective.discovery.etcd_kit import Etcd, Known, Proxy, record, running

from dodici.collective.discovery import EtcdConfig, EtcdDiscovery

pytestmark = pytest.mark.timeout(60)


def is_in(known: Known, name: str, namespace: str) -> bool:
    return name in known.members and known.members[name].namespaces == (namespace,)


async def test_another_endpoint_takes_over_from_one_that_is_silent(shared: Etcd) -> None:
    async with Proxy(shared.port) as proxy:
        config = EtcdConfig((proxy.address, shared.address), "/silent", ttl=2, timeout=0.5)
        async with running(EtcdDiscovery(config), record("a", port=1001)) as a:
            first = await a.discovery.registered()
            proxy.freeze()
            async with running(EtcdDiscovery(shared.url("/silent")), record("b", port=1002)) as b:
                await b.sees("a")
                # Longer than the lease, and than the watch takes to notice.
                await a.sees("b")
                assert a.discovery.record == first
                assert b.watcher.ids("removed") == []
                assert b.watcher.ids("changed") == []


async def test_another_endpoint_takes_over_from_one_that_is_dead(shared: Etcd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()[1]
    url = f"etcd://127.0.0.1:{dead},{shared.address}/dead?ttl=2"
    async with running(EtcdDiscovery(url), record("a", port=1001)) as a:
        async with asyncio.timeout(5):
            await a.discovery.registered()
        async with running(EtcdDiscovery(url), record("b", port=1002)):
            await a.sees("b")


async def test_connections_that_are_cut_lose_no_change(shared: Etcd) -> None:
    async with Proxy(shared.port) as proxy:
        config = EtcdConfig((proxy.address,), "/cut", ttl=10, timeout=1.0)
        async with running(EtcdDiscovery(config), record("a", port=1001)) as a:
            await a.discovery.registered()
            async with running(EtcdDiscovery(shared.url("/cut")), record("b", port=1002)) as b:
                for turn in range(5):
                    proxy.cut()
                    namespace = f"of-turn-{turn}"
                    await b.discovery.update(record("b", namespace, port=1002))
                    await a.watcher.until(functools.partial(is_in, a, "b", namespace))
            assert a.watcher.ids("added") == ["b"]
            assert proxy.connections > 1
