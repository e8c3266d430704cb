"""`dodici call` and `dodici collectors` with TLS and policies, and types from a registry."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest

pytest.importorskip("grpc")

from tests.collective import kit
from tests.collective.security.certs import Authority

from dodici.cli import main
from dodici.collective import TLS, Collector, Policy

Capture = pytest.CaptureFixture[str]
ME = "spiffe://tests/client/me"


@contextmanager
def running(make: Callable[[AsyncExitStack], Awaitable[str]]) -> Iterator[str]:
    """Collectors in a thread of their own, for commands that run a loop themselves; gives what `make` returns."""
    told = threading.Event()
    found: list[Any] = []

    async def run() -> None:
        ended = asyncio.Event()
        try:
            async with AsyncExitStack() as stack:
                address = await make(stack)
                found.extend((asyncio.get_running_loop(), ended, address))
                told.set()
                await ended.wait()
        except BaseException as error:
            found.append(error)
            raise
        finally:
            told.set()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert told.wait(20)
        assert len(found) == 3, found
        yield found[2]
    finally:
        if len(found) == 3:
            found[0].call_soon_threadsafe(found[1].set)
        thread.join(20)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    found = Authority(tmp_path_factory.mktemp("pki"))
    for name in ("me", "other"):
        found.issue(name, [f"spiffe://tests/client/{name}"])
    return found


def tls(authority: Authority, *, client: bool = True) -> TLS:
    cert, key = authority.issue("server", dns=["localhost"])
    return TLS(cert, key, authority.ca, client)


def options(authority: Authority, name: str = "") -> list[str]:
    folder = authority.folder
    own = ["--cert", str(folder / f"{name}.crt"), "--key", str(folder / f"{name}.key")] if name else []
    return ["--cacert", str(authority.ca), "--server-name", "localhost", *own]


def test_tls_without_a_client_certificate(authority: Authority, capsys: Capture) -> None:
    async def make(stack: AsyncExitStack) -> str:
        collector, _ = kit.make(tls=tls(authority, client=False))
        await stack.enter_async_context(collector)
        return collector.address

    with running(make) as address:
        assert main(["call", address, "plain", "Echo.Say", "7", *options(authority)]) == 0
        assert capsys.readouterr().out == "7\n"
        assert main(["collectors", address, "--json", *options(authority)]) == 0
        assert json.loads(capsys.readouterr().out)["id"] == "kit-1"
        assert main(["call", address, "plain", "Echo.Say", "7", "--timeout", "2"]) == 78  # plaintext


def test_policies_hold_for_those_who_look(authority: Authority, capsys: Capture) -> None:
    async def make(stack: AsyncExitStack) -> str:
        policy = Policy().allow(ME, "*").allow("spiffe://tests/client/other", "plain")
        collector, _ = kit.make(tls=tls(authority), policy=policy)
        await stack.enter_async_context(collector)
        return collector.address

    with running(make) as address:
        assert main(["call", address, "plain", "Echo.Say", "7", *options(authority, "me")]) == 0
        assert main(["collectors", address, *options(authority, "me")]) == 0
        assert main(["call", address, "plain", "Echo.Say", "7", *options(authority, "other")]) == 0
        capsys.readouterr()
        assert main(["collectors", address, *options(authority, "other")]) == 71
        assert "PERMISSION_DENIED: the policy does not allow" in capsys.readouterr().err
        assert main(["call", address, "shop", "OrderService.Create", *options(authority, "other")]) == 71
        assert main(["collectors", address, *options(authority), "--timeout", "2"]) == 78  # no certificate


def test_types_from_a_registry(capsys: Capture) -> None:
    """Through a collector that has no descriptors, with those that the other has registered."""
    stores = []

    async def make(stack: AsyncExitStack) -> str:
        store, _ = kit.make(registry="memory", reflection=False)
        gate = Collector("gate", "127.0.0.1:0", namespaces=["shop"])
        await stack.enter_async_context(store)
        await stack.enter_async_context(gate)
        await gate.connect_to(store.address)
        stores.append(store.address)
        return gate.address

    with running(make) as gate:
        [store] = stores
        given = ["shop", "kit.shop.OrderService.Create", '{"sku": "a", "count": "1"}']
        assert main(["call", gate, *given, "--registry", store, "-v"]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out) == {"sku": "A", "count": "2"}
        assert "* types of kit.shop.OrderService from the registry" in told.err
        assert "* handled by kit-1" in told.err
        # Without it, the envelope: the collector that runs it makes a message of the Struct.
        assert main(["call", gate, *given, "-v"]) == 0
        told = capsys.readouterr()
        assert "* nobody knows its types" in told.err
        # One that has no reflection, but a registry, is asked for that.
        assert main(["call", store, *given, "-v"]) == 0
        told = capsys.readouterr()
        assert "from the registry" in told.err
        assert json.loads(told.out) == {"sku": "A", "count": "2"}
        assert main(["call", gate, *given, "--registry", "127.0.0.1:1"]) == 78
