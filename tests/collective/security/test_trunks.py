"""Links on connections of their own, with TLS: who may open one, and how it is renewed."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from tests.collective.fleet import until
from tests.collective.security.certs import Authority, spiffe
from tests.collective.security.secure_kit import channel, collector, connect

from dodici.collective import TLS, renewal
from dodici.collective.errors import CollectiveError
from dodici.collective.protos import link_pb2 as pb
from dodici.collective.trunk_port import ALPN, dial, identity_of
from dodici.core.errors import DodiciError
from dodici.core.grpc_status import GrpcStatus


def trunks(of: Any) -> int:
    return len(of._trunks._listener._connections)


async def test_links_are_on_trunks_and_calls_have_identities(authority: Authority) -> None:
    async with (
        collector("a", authority.collector("a", "orders")) as a,
        collector("b", authority.collector("b", "orders")) as b,
    ):
        await a.connect_to(b.address)
        assert (trunks(a), trunks(b)) == (1, 1)
        result = await a.dispatch("orders", "Who-b", "Ask")
        assert result.output == f"{spiffe('orders', 'a')} a".encode()


async def test_without_a_certificate_or_with_another_authoritys_there_is_no_trunk(
    authority: Authority, foreign: Authority
) -> None:
    async with collector("a", authority.collector("a", "orders")) as a:
        port = a._service.link_port
        plain = await dial(a.address, port, security=None, message=1 << 20)
        plain.send(pb.LinkFrame(hello=pb.Hello(connection_id="x")))
        with pytest.raises(CollectiveError):
            await asyncio.wait_for(plain.first(), 5)
        await plain.gone()
        stranger = TLS(*foreign.issue("b", [spiffe("orders", "b")]), authority.ca)
        try:
            refused = await dial(a.address, port, security=stranger, message=1 << 20)
        except DodiciError:
            pass
        else:  # TLS 1.3 tells a client after its handshake
            with pytest.raises(CollectiveError):
                await asyncio.wait_for(refused.first(), 5)
            await refused.gone()
        context = ssl.create_default_context(cafile=authority.ca)
        context.set_alpn_protocols([ALPN])
        with pytest.raises((ssl.SSLError, ConnectionError)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            try:
                writer.write(b"\x00\x00\x00\x00")
                if await reader.read(1) == b"":
                    raise ConnectionResetError
            finally:
                writer.transport.abort()
        await until(lambda: trunks(a) == 0)


async def test_a_connection_id_counts_only_with_its_certificate(authority: Authority) -> None:
    x, y = authority.collector("x", "orders"), authority.collector("y", "orders")
    async with collector("a", authority.collector("a", "orders")) as a, channel(a.address, x) as known:
        answer = await connect(known, "x", "127.0.0.1:9", "orders")
        for tls, code in ((y, GrpcStatus.UNAUTHENTICATED), (x, None)):
            trunk = await dial(a.address, answer.link_port, security=tls, message=1 << 20)
            trunk.send(pb.LinkFrame(hello=pb.Hello(connection_id=answer.connection_id)))
            if code is None:
                assert (await trunk.first()).hello.collector_id == "a"
            else:
                with pytest.raises(CollectiveError) as caught:
                    await trunk.first()
                assert caught.value.grpc_status is code
            await trunk.leave()


async def test_a_client_of_another_protocol_is_turned_away(authority: Authority) -> None:
    x = authority.collector("x", "orders")
    async with collector("a", authority.collector("a", "orders")) as a:
        context = ssl.create_default_context(cafile=authority.ca)
        context.load_cert_chain(x.cert, x.key)
        reader, writer = await asyncio.open_connection("127.0.0.1", a._service.link_port, ssl=context)
        hello = pb.LinkFrame(hello=pb.Hello(connection_id="x")).SerializeToString()
        writer.write(len(hello).to_bytes(4, "big") + hello)
        data = await asyncio.wait_for(reader.read(), 5)
        assert pb.LinkFrame.FromString(data[4:]).goodbye.code == int(GrpcStatus.UNAUTHENTICATED)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("why", ["age", "certificate"])
async def test_a_link_is_made_anew_under_calls_and_none_is_lost(
    authority: Authority, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "_LOOK", 0.05)
    uris = [spiffe("orders", "a")]
    a_tls = TLS(*authority.issue("a", uris), authority.ca, max_age=0.5 if why == "age" else None)
    gate, inside = asyncio.Event(), asyncio.Event()
    async with collector("a", a_tls) as a, collector("b", authority.collector("b", "orders")) as b:

        @b.method("orders", "Who-b", "Hold")
        async def hold(context: Any, given: Any) -> bytes:
            inside.set()
            await gate.wait()
            return b"held"

        await a.connect_to(b.address)
        held = asyncio.create_task(a.dispatch("orders", "Who-b", "Hold"))
        await inside.wait()
        first = a._peers.get("b").batch  # type: ignore[union-attr]
        session = b._peers.get("a").session  # type: ignore[union-attr]
        if why == "certificate":
            authority.issue("a", uris)
            a_tls.reload()
        wrong: list[Any] = []
        async with asyncio.timeout(20):
            while a._peers.get("b").batch is first:  # type: ignore[union-attr]
                result = await a.dispatch("orders", "Who-b", "Ask")
                if result.status != 200:
                    wrong.append(result)
            for _ in range(20):
                assert (await a.dispatch("orders", "Who-b", "Ask")).status == 200
            assert wrong == []
            assert b._peers.get("a").session is not session  # type: ignore[union-attr]
            # What has begun is on the old one still.
            assert not held.done()
            gate.set()
            assert (await held).output == b"held"
            await until(lambda: session._done)  # type: ignore[union-attr]
        assert (await a.dispatch("orders", "Who-b", "Ask")).status == 200
        assert a.connections[0].state == "connected"


def test_all_this_on_uvloop(authority: Authority) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def run() -> None:
        async with (
            collector("a", authority.collector("a", "orders")) as a,
            collector("b", authority.collector("b", "orders")) as b,
        ):
            await a.connect_to(b.address)
            assert (trunks(a), trunks(b)) == (1, 1)
            results = await asyncio.gather(*(a.dispatch("orders", "Who-b", "Ask") for _ in range(100)))
            assert {bytes(result.output) for result in results} == {f"{spiffe('orders', 'a')} a".encode()}

    uvloop.run(run())


def test_names_of_a_certificate() -> None:
    found = identity_of(
        {
            "subject": ((("countryName", "IT"),), (("commonName", "spiffe://t/ns/x/collector/evil"),)),
            "subjectAltName": (("DNS", "a.example"), ("URI", "spiffe://t/ns/x/collector/a"), ("DNS", "a/b")),
        }
    )
    assert (found.names, found.tls) == (("spiffe://t/ns/x/collector/a", "a.example"), True)
