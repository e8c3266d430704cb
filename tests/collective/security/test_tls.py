"""Certificates between collectors and their clients: whose are taken, and what happens when they change."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.collective.security.certs import Authority, spiffe
from tests.collective.security.secure_kit import ORDERS, ask, channel, collector, connect

from dodici.collective import TLS, CollectiveError, Collector
from dodici.collective.tls import as_security
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

UNAVAILABLE = GrpcStatus.UNAVAILABLE


# -- whose certificate is taken ------------------------------------------------------------------------------


async def test_clients_of_the_authority_are_known_by_their_names(authority: Authority) -> None:
    async with collector("a", authority.collector("a", "orders")) as a:
        for uris, dns, known in (
            ([spiffe("orders", "c"), spiffe("users", "c")], ["c.example"], spiffe("orders", "c")),
            ([], ["c.example"], "c.example"),
            ([], [], "client"),
        ):
            async with channel(a.address, authority.tls("client", uris, dns=dns)) as client:
                assert await ask(client) == f"{known} "


async def test_other_clients_are_refused(
    authority: Authority, foreign: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "dodici.net")
    async with collector("a", authority.collector("a", "orders")) as a:
        theirs = foreign.issue("a", [spiffe("orders", "a")])
        for security in (
            TLS(*theirs, authority.ca),
            TLS(*authority.issue("late", [spiffe("orders", "late")], expired=True), authority.ca),
            None,
        ):
            async with channel(a.address, security) as client:
                assert await ask(client) is UNAVAILABLE
        credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
        async with aio.secure_channel(a.address, credentials) as bare:
            with pytest.raises(aio.AioRpcError) as refused:
                await bare.unary_unary("/Who-a/Ask")(b"", metadata=ORDERS, timeout=5)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    told = [
        record for record in caplog.records if "no TLS connection from 127.0.0.1 port" in record.getMessage()
    ]
    for why in ("unable to get local issuer", "has expired", "did not return a certificate"):
        assert any(why in record.getMessage() for record in told), told
    # Those who come all the time do not fill the log.
    assert [record.levelname for record in told[:2]] == ["INFO", "DEBUG"]


async def test_other_servers_are_refused(authority: Authority, foreign: Authority) -> None:
    ours = authority.collector("client", "orders")
    uri = [spiffe("orders", "a")]
    for security in (
        TLS(*foreign.issue("a", uri), authority.ca),
        TLS(*authority.issue("a", uri, expired=True), authority.ca),
        authority.tls("elsewhere", uri, dns=["a.example"], address=False),
    ):
        async with collector("a", security) as a, channel(a.address, ours) as client:
            assert await ask(client) is UNAVAILABLE


async def test_a_name_that_all_collectors_have_stands_for_their_hosts(authority: Authority) -> None:
    shared = {"dns": ["collectors.example"], "address": False}
    server = authority.collector("a", "orders", **shared)
    cert, key = authority.issue("client", **shared)
    async with collector("a", server) as a:
        for name, answer in (("collectors.example", "collectors.example "), ("other.example", UNAVAILABLE)):
            security = TLS(cert, key, authority.ca, server_name=name)
            async with channel(a.address, security) as client:
                assert await ask(client) == answer


async def test_without_client_certificates_nobody_has_a_name(authority: Authority) -> None:
    cert, key = authority.issue("a", [spiffe("orders", "a")])
    security = {"cert": cert, "key": key, "require_client_cert": False}
    async with collector("a", security) as a:
        credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
        async with aio.secure_channel(a.address, credentials) as bare:
            assert await bare.unary_unary("/Who-a/Ask")(b"", metadata=ORDERS, timeout=5) == b"None "
        async with channel(a.address, authority.collector("c", "orders")) as client:
            assert await ask(client) == "None "


# -- who may connect -----------------------------------------------------------------------------------------


async def test_nobody_connects_as_another(authority: Authority) -> None:
    """W20."""
    async with (
        collector("a", authority.collector("a", "orders")) as a,
        collector("b", authority.collector("b", "orders")) as b,
        channel(a.address, authority.collector("c", "orders")) as impostor,
        channel(a.address, authority.tls("d", dns=["b"], common_name=spiffe("orders", "b"))) as no_collector,
    ):
        await a.connect_to(b.address)
        before = a.connections
        for client in (impostor, no_collector):
            refused = await connect(client, "b", "127.0.0.1:9", "orders")
            assert (refused.status.code, refused.status.details["grpc-status"]) == (403, "PERMISSION_DENIED")
            assert "b" in refused.status.message
            assert refused.connection_id == ""
        assert [(each.collector_id, each.address, each.connection_id) for each in a.connections] == [
            (each.collector_id, each.address, each.connection_id) for each in before
        ]
        answer = await a.dispatch("orders", "Who-b", "Ask", target="b")
        assert (answer.status, answer.handled_by_collector_id) == (200, "b")


async def test_nobody_connects_for_other_namespaces(authority: Authority) -> None:
    async with (
        collector("a", authority.collector("a", "orders", "users"), policy=None) as a,
        channel(a.address, authority.collector("c", "orders")) as client,
    ):
        await a.join("users")
        for namespaces in (["users"], ["orders", "users"]):
            assert (await connect(client, "c", "127.0.0.1:9", *namespaces)).status.code == 403
        assert a.connections == ()


async def test_collectors_connect_and_route(authority: Authority) -> None:
    async with (
        collector("a", authority.collector("a", "orders")) as a,
        collector("b", authority.collector("b", "orders")) as b,
    ):
        assert (await a.connect_to(b.address)).target_collector_id == "b"
        assert (await a.dispatch("orders", "Who-b", "Ask")).output == f"{spiffe('orders', 'a')} a".encode()
        assert (await b.dispatch("orders", "Who-a", "Ask")).output == f"{spiffe('orders', 'b')} b".encode()


# -- new certificates ----------------------------------------------------------------------------------------


async def test_reload_under_load_drops_no_call(authority: Authority) -> None:
    a_tls, b_tls = authority.collector("a", "orders"), authority.collector("b", "orders")
    gate, inside = asyncio.Event(), asyncio.Event()
    async with collector("a", a_tls) as a, collector("b", b_tls) as b:

        @b.method("orders", "Who-b", "Hold")
        async def hold(context: Any, given: Any) -> bytes:
            inside.set()
            await gate.wait()
            return b"held"

        await a.connect_to(b.address)
        async with channel(b.address, a_tls) as client, asyncio.timeout(30):
            failures: list[Any] = []
            done = 0
            stop = asyncio.Event()

            async def load() -> None:
                nonlocal done
                while not stop.is_set():
                    routed, direct = await asyncio.gather(
                        a.dispatch("orders", "Who-b", "Ask", target="b"), ask(client, "b")
                    )
                    done += 2
                    if routed.status != 200 or not isinstance(direct, str):
                        failures.append((routed, direct))

            callers = [asyncio.create_task(load()) for _ in range(4)]
            held = asyncio.create_task(a.dispatch("orders", "Who-b", "Hold"))
            held_direct = asyncio.create_task(client.unary("/Who-b/Hold", b"", metadata=ORDERS))
            await inside.wait()
            # New certificates of both, with another name, so that it shows whose is used.
            for name in ("a", "b"):
                authority.issue(name, [spiffe("orders", name), f"spiffe://corp.example/new/{name}"])
            # A handshake may have been first to see them.
            for security in (a_tls, b_tls):
                security.reload()
                assert security.generation() == 1
            first = client._lines.line
            while client._lines.line is first:
                await asyncio.sleep(0)
            # The old connection lives as long as the call on it.
            assert not first.closed
            before = done
            while done < before + 200:
                await asyncio.sleep(0)
            gate.set()
            assert (await held).status == 200
            assert await held_direct == b"held"
            assert first.closed
            stop.set()
            await asyncio.gather(*callers)
            assert failures == []


async def test_a_server_shows_its_new_certificate_to_new_connections(
    authority: Authority, foreign: Authority
) -> None:
    security = authority.collector("a", "orders")
    old = authority.collector("old", "orders")
    async with collector("a", security) as a, channel(a.address, old) as connected:
        assert await ask(connected) == f"{spiffe('orders', 'old')} "
        # Another authority altogether, for both sides.
        for name in ("a.key", "a.crt"):
            foreign.issue("a", [spiffe("orders", "a")])
            os.replace(foreign.folder / name, authority.folder / name)
        cert, key = foreign.issue("a", [spiffe("orders", "a")])
        os.replace(key, security.key)
        os.replace(cert, security.cert)
        authority.ca.write_bytes(foreign.ca.read_bytes())
        async with channel(a.address, foreign.collector("new", "orders")) as client:
            assert await ask(client) == f"{spiffe('orders', 'new')} "
        assert security.generation() == 1
        assert await ask(connected) == f"{spiffe('orders', 'old')} "


async def test_halves_of_a_replacement_are_not_used(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    security = authority.collector("a", "orders")
    cert, key = Path(security.cert).read_bytes(), Path(security.key).read_bytes()
    authority.issue("other")
    other_key = (authority.folder / "other.key").read_bytes()
    async with collector("a", security) as a:
        with caplog.at_level(logging.WARNING, "dodici.collective"):
            Path(security.key).write_bytes(other_key)
            async with channel(a.address, authority.collector("c", "orders")) as client:
                assert await ask(client) == f"{spiffe('orders', 'c')} "
            Path(security.key).unlink()
            assert not security.reload()
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
        assert security.generation() == 0
        Path(security.cert).write_bytes((authority.folder / "other.crt").read_bytes())
        Path(security.key).write_bytes(other_key)
        assert security.reload()
        assert not security.reload()
        assert security.generation() == 1
        Path(security.key).write_bytes(key)
        Path(security.cert).write_bytes(cert)
        assert security.reload()


async def test_a_new_certificate_that_is_refused_leaves_the_old_connection(
    authority: Authority, foreign: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dodici.collective.lines._RENEWAL", 0.3)
    security = authority.collector("c", "orders")
    async with (
        collector("a", authority.collector("a", "orders")) as a,
        channel(a.address, security) as client,
        asyncio.timeout(20),
    ):
        assert await ask(client) == f"{spiffe('orders', 'c')} "
        first = client._lines.line
        cert, key = foreign.issue("c", [spiffe("orders", "evil")])
        os.replace(key, security.key)
        os.replace(cert, security.cert)
        assert security.reload()
        assert await ask(client) == f"{spiffe('orders', 'c')} "
        assert client._lines.renewal is not None
        await client._lines.renewal
        assert client._lines.line is first
        authority.issue("c", [spiffe("orders", "right")])
        assert security.reload()
        while await ask(client) == f"{spiffe('orders', 'c')} ":
            await asyncio.sleep(0)
        assert await ask(client) == f"{spiffe('orders', 'right')} "


async def test_who_watches_a_channel_follows_its_renewal(authority: Authority) -> None:
    security = authority.collector("c", "orders")
    a = collector("a", authority.collector("a", "orders"))
    async with a, channel(a.address, security) as client, asyncio.timeout(20):
        await client.ready(10)
        watching = asyncio.create_task(client.changed(True))
        authority.issue("c", [spiffe("orders", "c2")])
        assert security.reload()
        while await ask(client) != f"{spiffe('orders', 'c2')} ":
            await asyncio.sleep(0)
        assert not watching.done()
        await a.stop()
        assert await watching is False


# -- arguments -----------------------------------------------------------------------------------------------


def test_wrong_arguments(authority: Authority) -> None:
    cert, key = authority.issue("a")
    other = authority.issue("other")
    locked = authority.folder / "locked.key"
    locked.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBvTBXBgkqhkiG9w0BBQ0w\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    for arguments, says in (
        ((cert, other[1], authority.ca), "cannot load"),
        ((cert, locked, authority.ca), "cannot load"),
        (("/nowhere.crt", key, authority.ca), "/nowhere.crt"),
        ((cert, key, "/nowhere.pem"), "/nowhere.pem"),
        ((cert, key), "ca="),
        ((b"PEM", key, authority.ca), "cert must be the path"),
        ((cert, "", authority.ca), "key must be the path"),
        ((cert, key, authority.ca, "yes"), "require_client_cert"),
    ):
        with pytest.raises(InvalidArgumentError, match=says):
            TLS(*arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="server_name"):
        TLS(cert, key, authority.ca, server_name="")


def test_mappings(authority: Authority) -> None:
    cert, key = authority.issue("a")
    made = as_security({"cert": cert, "key": key, "ca": str(authority.ca)})
    assert isinstance(made, TLS)
    assert repr(made) == f"TLS({cert!r}, {key!r}, {str(authority.ca)!r}, require_client_cert=True)"
    assert as_security(made) is made
    assert as_security(None) is None
    for wrong, says in (
        ({"cert": cert}, "lacks key"),
        ({"cert": cert, "key": key, "certs": 1}, "'certs'"),
        (5, "not int"),
    ):
        with pytest.raises(InvalidArgumentError, match=says):
            Collector("a", "127.0.0.1:0", tls=wrong)  # type: ignore[arg-type]


def test_plaintext_is_for_loopback(authority: Authority) -> None:
    with pytest.raises(InvalidArgumentError, match="insecure=True"):
        Collector("a", "0.0.0.0:0")
    Collector("a", "0.0.0.0:0", insecure=True)
    Collector("a", "0.0.0.0:0", tls=authority.collector("a", "orders"))


async def test_collectors_of_two_authorities_do_not_connect(authority: Authority, foreign: Authority) -> None:
    async with (
        collector("a", authority.collector("a", "orders")) as a,
        collector("b", foreign.collector("b", "orders")) as b,
    ):
        with pytest.raises(CollectiveError) as refused:
            await a.connect_to(b.address, timeout=1.0)
        assert refused.value.grpc_status is UNAVAILABLE
        assert a.connections == b.connections == ()
