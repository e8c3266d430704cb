"""Discovery where everything has certificates: collectors, and an etcd that takes clients with certificates alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.collective.discovery.etcd_kit import etcd
from tests.collective.fleet import until

from dodici.collective import Collector

pytest.importorskip("cryptography")

from tests.collective.security.certs import Authority, spiffe
from tests.collective.security.secure_kit import collector


async def test_collectors_find_each_other_and_stay_connected_without_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server_cert, server_key = authority.issue("etcd")
    cert, key = authority.issue("finder", ["spiffe://corp.example/finder"])
    tls = [
        "--cert-file", server_cert, "--key-file", server_key,
        "--trusted-ca-file", str(authority.ca), "--client-cert-auth",
    ]  # fmt: skip
    with etcd(tmp_path, tls=tls) as own:
        url = own.url().replace("etcd://", "etcds://", 1) + f"&ca={authority.ca}"
        known = f"{url}&cert={cert}&key={key}"
        a = collector("a", authority.collector("a", "orders"), discovery=known)
        b = collector("b", authority.collector("b", "orders"), discovery=known)
        stranger = collector("x", authority.collector("x", "orders"), discovery=url)

        def connected(one: Collector, *others: str) -> bool:
            return {(each.collector_id, each.state) for each in one.connections} == {
                (other, "connected") for other in others
            }

        async with stranger, a, b:
            await until(lambda: connected(a, "b") and connected(b, "a"))
            assert {member.id for member in a.members} == {"b"}
            # Who it is that calls is known by its certificate, over the connection that discovery has made.
            answer = await a.dispatch("orders", "Who-b", "Ask")
            assert answer.output == f"{spiffe('orders', 'a')} a".encode()
            own.kill()
            for _ in range(20):
                assert (await a.dispatch("orders", "Who-b", "Ask")).status == 200
                assert (await b.dispatch("orders", "Who-a", "Ask")).status == 200
            await asyncio.to_thread(own.restart)
            late = collector("c", authority.collector("c", "orders"), discovery=known)
            async with late:
                await until(lambda: connected(late, "a", "b"))
                assert (await late.dispatch("orders", "Who-b", "Ask")).status == 200
            assert (stranger.members, stranger.connections) == ((), ())
