"""Addresses, certificates, and crowds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.collective.grpc_server.server_kit import (
    Face,
    Methods,
    Raw,
    channel,
    message,
    raw,
    serving,
)
from tests.collective.security.certs import Authority, spiffe
from tests.wire.h2.frames_kit import settings

from dodici.collective import TLS
from dodici.collective.grpc_server import Server
from dodici.core.errors import InvalidArgumentError, SocketError
from dodici.net import listener
from dodici.net.loop import services
from dodici.wire.h2.frames import PREFACE


async def echoes(address: str) -> bool:
    async with raw(address) as client:
        client.call(1, "echo", b"x")
        return bool((await client.answer(1)).body == message(b"x"))


# -- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "peer"), [("127.0.0.1", "ipv4:127.0.0.1:"), ("[::1]", "ipv6:[::1]:")])
async def test_addresses_of_both_families(host: str, peer: str) -> None:
    async with serving(f"{host}:0") as running:
        assert running.address == f"{host}:{running.port}"
        assert running.port > 0
        async with channel(running.address) as called:
            assert await called.unary_unary("/t/echo")(b"x", timeout=10) == b"x"
            assert [each.peer.startswith(peer) for each in running.connections] == [True]


@pytest.mark.parametrize("host", ["localhost", "[::]", "0.0.0.0"])
async def test_names_and_all_addresses(host: str) -> None:
    async with serving(f"{host}:0") as running:
        assert await echoes(f"127.0.0.1:{running.port}")
        both = {family for family, *_ in socket.getaddrinfo("localhost", None)} >= {socket.AF_INET6}
        if host == "[::]" or (host == "localhost" and both):
            assert await echoes(f"[::1]:{running.port}")


async def test_an_address_that_is_in_use() -> None:
    async with serving() as running:
        again = Server(Face(Methods()), running.address)
        with pytest.raises(SocketError, match=f"cannot listen on {running.address}: the address is in use"):
            await again.start()
        assert await echoes(running.address)


async def test_addresses_that_cannot_be_listened_on() -> None:
    for address in ("192.0.2.1:0", "nowhere.invalid:0", f"{'x' * 70}.invalid:0", "unix:/nowhere/at/all"):
        with pytest.raises(SocketError, match="cannot listen on"):
            await Server(Face(Methods()), address).start()
    with pytest.raises(InvalidArgumentError):
        Server(Face(Methods()), "here")


async def test_a_unix_socket_is_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for address in (f"unix:{path}", f"unix://{path}"):
        async with serving(address) as running:
            assert running.address == address
            assert path.is_socket()
            assert await echoes(f"unix:{path}")
            async with channel(address) as called:
                assert await called.unary_unary("/t/echo")(b"x", timeout=10) == b"x"
                assert {each.peer for each in running.connections} == {"unix:"}
        assert not path.exists()


async def test_a_unix_socket_that_was_left_behind_is_replaced_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serving(f"unix:{path}") as running:
        with pytest.raises(SocketError, match="the address is in use"):
            await Server(Face(Methods()), running.address).start()
        assert await echoes(running.address)
        # Somebody's who has taken the name since is not removed in the end.
        path.unlink()
        path.touch()
    assert path.exists()
    with pytest.raises(SocketError, match="the address is in use"):
        await Server(Face(Methods()), f"unix:{path}").start()
    assert path.exists()


async def test_a_relative_path_is_removed_wherever_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with serving("unix:s"):
        assert (tmp_path / "s").is_socket()
        monkeypatch.chdir("/")
    assert not (tmp_path / "s").exists()


async def test_who_connects_before_the_start_waits() -> None:
    server = Server(Face(Methods()), "127.0.0.1:0")
    await server.listen()
    try:
        async with raw(server.address) as client:
            client.call(1, "echo", b"x")
            await server.start()
            assert (await client.answer(1)).body == message(b"x")
    finally:
        await server.stop(None)


# -- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def client_context(tls: TLS | None, ca: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if tls is not None:
        context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(list(protocols or ("h2",)))
    return context


@contextlib.asynccontextmanager
async def secure(address: str, authority: Authority, tls: TLS | None) -> AsyncIterator[Any]:
    key, cert = (None, None) if tls is None else (Path(tls.key).read_bytes(), Path(tls.cert).read_bytes())
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes(), key, cert)
    async with aio.secure_channel(
        address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as made:
        yield made


async def test_a_client_with_a_certificate_has_a_name(authority: Authority) -> None:
    tls = authority.collector("a", "orders")
    async with serving(security=tls) as running, secure(running.address, authority, tls) as called:
        assert await called.unary_unary("/t/echo")(b"x", timeout=10) == b"x"
        (one,) = running.connections
        assert one.identity.tls
        assert one.identity.names[0] == spiffe("orders", "a")
        large = called.unary_stream("/t/repeat")(b"30 500000", timeout=20)
        assert sum([len(each) async for each in large]) == 15_000_000


async def test_certificates_that_are_wrong_or_missing(authority: Authority, tmp_path: Path) -> None:
    tls = authority.collector("a", "orders")
    (tmp_path / "foreign").mkdir()
    foreign = Authority(tmp_path / "foreign", "foreign").collector("a", "orders")
    expired = TLS(*authority.issue("old", expired=True), authority.ca)
    async with serving(security=tls) as running:
        for wrong in (None, foreign, expired):
            async with secure(running.address, authority, wrong) as called:
                with pytest.raises(aio.AioRpcError) as caught:
                    await called.unary_unary("/t/echo")(b"x", timeout=10)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        async with channel(running.address) as called:
            with pytest.raises(aio.AioRpcError) as caught:
                await called.unary_unary("/t/echo")(b"x", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert running.face.asked == 0
        await running.empty()
        # Nothing of a handshake that has failed is left.
        assert len(services(asyncio.get_running_loop()).timers) == 0
        async with secure(running.address, authority, tls) as called:
            assert await called.unary_unary("/t/echo")(b"x", timeout=10) == b"x"


async def test_client_certificates_may_be_optional(authority: Authority) -> None:
    own = authority.collector("a", "orders")
    tls = TLS(own.cert, own.key, require_client_cert=False)
    async with serving(security=tls) as running, secure(running.address, authority, None) as called:
        assert await called.unary_unary("/t/echo")(b"x", timeout=10) == b"x"
        (one,) = running.connections
        assert one.identity.names == ()


async def test_a_client_without_http2_is_told(authority: Authority) -> None:
    tls = authority.collector("a", "orders")
    async with serving(security=tls) as running:
        context = client_context(tls, authority.ca, "http/1.1")
        async with raw(running.address, greet=False, ssl=context) as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            await client.goodbye()
        await running.empty()


async def test_who_shakes_hands_slowly_holds_up_nobody(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_HANDSHAKE", 0.8)
    tls = authority.collector("a", "orders")
    async with serving(security=tls) as running:
        slow = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(50)]
        for _, writer in slow[:25]:
            writer.write(b"\x16\x03\x01\x02\x00\x01")
        async with secure(running.address, authority, tls) as called:
            assert await called.unary_unary("/t/echo")(b"x", timeout=10, wait_for_ready=True) == b"x"
        for reader, writer in slow:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        await running.empty()
        assert len(services(asyncio.get_running_loop()).timers) == 0


async def test_a_certificate_that_is_replaced_under_load(authority: Authority) -> None:
    tls = authority.collector("a", "orders")
    async with serving(security=tls) as running:
        serials = set()
        for _ in range(3):
            async with secure(running.address, authority, tls) as called:
                calls = [called.unary_unary("/t/echo")(b"x", timeout=10) for _ in range(20)]
                authority.issue("a", [spiffe("orders", "a")])
                tls.reload()
                assert await asyncio.gather(*calls) == [b"x"] * 20
            async with raw(running.address, ssl=client_context(tls, authority.ca)) as client:
                shown = client.writer.get_extra_info("peercert")
                serials.add(shown["serialNumber"])
        assert len(serials) == 3


async def test_last_words_over_tls(authority: Authority) -> None:
    tls = authority.collector("a", "orders")
    async with serving(security=tls) as running:
        async with raw(running.address, (4, 2**30), ssl=client_context(tls, authority.ca)) as client:
            client.call(1, "repeat", b"10 500000")
            while not (1 in client.answers and client.answers[1].body):
                await client.frame()
            stopping = asyncio.create_task(running.server.stop(10.0))
            assert (await client.answer(1)).body == message(bytes(500_000)) * 10
            await client.rest()
            await stopping


# -- crowds ------------------------------------------------------------------------------------------------------


async def test_many_connections_come_and_go() -> None:
    count = 300
    async with serving() as running:
        clients = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(count)]
        made = [Raw(*each) for each in clients]
        for each in made:
            each.send(PREFACE, settings())
            each.call(1, "echo", b"x")
        for each in made:
            assert (await each.answer(1)).status == 0
        assert len(running.connections) == count
        for each in made:
            each.writer.transport.abort()
        await running.empty()
    assert len(services(asyncio.get_running_loop()).timers) == 0


async def test_connections_beyond_the_most_are_closed_at_once() -> None:
    async with serving() as running:
        running.server._listener._most = 2
        async with raw(running.address) as one, raw(running.address) as two, raw(running.address) as three:
            for each in (one, two):
                each.call(1, "echo", b"x")
                assert (await each.answer(1)).status == 0
            assert not await three.rest()


async def test_it_goes_on_when_there_are_descriptors_again(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as running:
        waiting = socket.socket()
        waiting.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(waiting.fileno()))
            await asyncio.get_running_loop().sock_connect(waiting, ("127.0.0.1", running.port))
            while "cannot accept a connection" not in caplog.text:
                await asyncio.sleep(0.01)
            assert not running.connections
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for each in taken:
                os.close(each)
        client = Raw(*await asyncio.open_connection(sock=waiting))
        client.send(PREFACE, settings())
        client.call(1, "echo", b"x")
        assert (await client.answer(1)).status == 0
        client.writer.transport.abort()
