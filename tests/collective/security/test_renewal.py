"""Connections do not outlive what they were opened with: they are made anew, and no call is lost by it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.collective.security.certs import Authority, spiffe
from tests.collective.security.secure_kit import ORDERS, ask, channel, collector

from dodici.collective import TLS, renewal
from dodici.collective.errors import call_error
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus


def connections(port: str) -> set[str]:
    """The local ends of established connections to a port of this machine (proc_net_tcp(5))."""
    wanted = f":{int(port):04X}"
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if remote.endswith(wanted) and state == "01":
                found.add(local)
    return found


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="no table of connections here")
async def test_a_connection_is_made_anew_at_its_age_and_no_call_is_lost(authority: Authority) -> None:
    a_tls = authority.collector("a", "orders")
    b_tls = TLS(*authority.issue("b", [spiffe("orders", "b")]), authority.ca, max_age=0.5)
    gate, inside = asyncio.Event(), asyncio.Event()
    async with collector("a", a_tls) as a, collector("b", b_tls) as b:

        @b.method("orders", "Who-b", "Hold")
        async def hold(context: Any, given: Any) -> bytes:
            inside.set()
            await gate.wait()
            return b"held"

        await a.connect_to(b.address)
        async with channel(b.address, a_tls) as client, asyncio.timeout(30):
            held = asyncio.create_task(client.unary("/Who-b/Hold", b"", metadata=ORDERS))
            await inside.wait()
            seen: set[str] = set()
            wrong: list[Any] = []
            until = time.monotonic() + 10.0
            while len(seen) < 5 and time.monotonic() < until:
                routed, direct = await asyncio.gather(
                    a.dispatch("orders", "Who-b", "Ask", target="b"), ask(client, "b")
                )
                if routed.status != 200 or not isinstance(direct, str):
                    wrong.append((routed, direct))
                seen |= connections(b.address.rpartition(":")[2])
            assert wrong == []
            # Of a one, and of the client another after each half second or so.
            assert len(seen) >= 5
            # What has begun is at its connection still.
            gate.set()
            assert await held == b"held"


async def test_an_expired_certificate_is_refused_soon(authority: Authority) -> None:
    a_tls = TLS(*authority.issue("a", [spiffe("orders", "a")]), authority.ca, max_age=0.5)
    ending = TLS(*authority.issue("c", ["spiffe://corp.example/c"], lasts=2.0), authority.ca)
    expires = time.monotonic() + 2.0
    async with collector("a", a_tls) as a, channel(a.address, ending) as client, asyncio.timeout(20):
        assert isinstance(await ask(client), str)
        while isinstance(answer := await ask(client), str):
            await asyncio.sleep(0.02)
        # Certificates count whole seconds.
        assert -1.1 < time.monotonic() - expires < 1.5
        assert answer is GrpcStatus.UNAVAILABLE
        # A new one is all that it takes.
        authority.issue("c", ["spiffe://corp.example/c"])
        ending.reload()
        while not isinstance(await ask(client), str):
            await asyncio.sleep(0.02)


class Links:
    """Links that are opened, with the number that the certificate has at their beginning and at their end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(renewal, "_LOOK", 0.01)
        monkeypatch.setattr(renewal, "_AGAIN", 0.02)
        self.certificate = 0
        self.opened: list[int] = []
        self.enough = asyncio.Event()

    async def link(self, ready: Any, successor: bool) -> None:
        self.opened.append(self.certificate)
        await self.handshake(successor)
        ready()
        if not successor:
            self.certificate = 1
        elif len(self.opened) == 3:
            self.enough.set()
        await asyncio.Event().wait()

    async def handshake(self, successor: bool) -> None:
        """May fail, or take its time."""

    async def keep(self) -> None:
        keeping = asyncio.create_task(renewal.renewed(self.link, (lambda: self.certificate, None)))
        try:
            async with asyncio.timeout(5):
                await self.enough.wait()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def test_a_link_that_could_not_be_made_anew_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    links = Links(monkeypatch)

    async def handshake(successor: bool) -> None:
        if len(links.opened) == 2:
            raise call_error(GrpcStatus.UNAVAILABLE, "a certificate without its key")

    monkeypatch.setattr(links, "handshake", handshake)
    await links.keep()
    assert links.opened == [0, 1, 1]


async def test_a_certificate_that_changes_in_the_handshake_is_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    links = Links(monkeypatch)

    async def handshake(successor: bool) -> None:
        if len(links.opened) == 2:
            links.certificate = 2

    monkeypatch.setattr(links, "handshake", handshake)
    await links.keep()
    assert links.opened == [0, 1, 2]


def test_ages(authority: Authority) -> None:
    files = authority.issue("x")
    assert TLS(*files, authority.ca).max_age == 3600.0
    assert TLS(*files, authority.ca, max_age=None).connection_age() is None
    for wrong in (0, -1, "long", float("nan")):
        with pytest.raises(InvalidArgumentError, match="max_age"):
            TLS(*files, authority.ca, max_age=wrong)  # type: ignore[arg-type]
