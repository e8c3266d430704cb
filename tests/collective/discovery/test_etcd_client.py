"""The client of etcd, and following keys."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.collective.discovery.etcd_kit import Etcd, Proxy, client_of, etcd
from tests.peers.processes import program

from dodici.collective.discovery import EtcdClient, EtcdConfig, watch as watch_module
from dodici.collective.discovery.backoff import Backoff
from dodici.collective.discovery.etcd import PAGE, prefix_end
from dodici.collective.discovery.watch import Changes, Interrupted, Listing, follow
from dodici.collective.errors import CollectiveError, PeerUnavailableError
from dodici.collective.protos import etcd_pb2 as pb
from dodici.core.errors import ClientClosedError, InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

pytestmark = pytest.mark.timeout(60)


async def test_keys(shared: Etcd) -> None:
    async with client_of(shared.config()) as client:
        first = await client.put(b"/keys/a", b"1")
        second = await client.put(b"/keys/b", b"2")
        assert second == first + 1
        there, revision = await client.get(b"/keys/a")
        assert there is not None
        assert (there.value, there.mod_revision, revision) == (b"1", first, second)
        assert [key.key for key in (await client.list(b"/keys/"))[0]] == [b"/keys/a", b"/keys/b"]
        assert await client.delete(b"/keys/a") == 1
        assert await client.delete(b"/keys/a") == 0
        assert await client.get(b"/keys/a") == (None, second + 1)
        assert await client.delete(b"/keys/", range_end=prefix_end(b"/keys/")) == 1


async def test_a_key_is_created_once_and_replaced_by_who_knows_it(shared: Etcd) -> None:
    async with client_of(shared.config()) as client:
        written, other = await client.put_if(b"/once", b"1", revision=0)
        assert written > 0
        assert other is None
        refused, other = await client.put_if(b"/once", b"2", revision=0)
        assert refused == 0
        assert other is not None
        assert (other.value, other.mod_revision) == (b"1", written)
        assert (await client.put_if(b"/once", b"3", revision=written))[0] == written + 1
        assert await client.put_if(b"/absent", b"1", revision=written) == (0, None)


async def test_leases(shared: Etcd) -> None:
    async with client_of(shared.config()) as client:
        lease, ttl = await client.grant(10)
        assert ttl == 10
        await client.put(b"/leased", b"1", lease=lease)
        assert await client.renew(lease)
        await client.revoke(lease)
        assert (await client.get(b"/leased"))[0] is None
        assert not await client.renew(lease)
        await client.revoke(lease)
        with pytest.raises(CollectiveError, match="requested lease not found") as refused:
            await client.put(b"/leased", b"1", lease=lease)
        assert refused.value.grpc_status is GrpcStatus.NOT_FOUND
        assert refused.value.peer == shared.address


async def test_a_list_of_many_pages_is_of_one_revision(shared: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(shared.config()) as client:
        puts = [pb.RequestOp(request_put=pb.PutRequest(key=b"/many/%03d" % n)) for n in range(100)]
        answer = await client.txn(pb.TxnRequest(success=puts))
        assert PAGE > 100
        monkeypatch.setattr("dodici.collective.discovery.etcd.PAGE", 33)
        keys, revision = await client.list(b"/many/")
        assert [key.key for key in keys] == [b"/many/%03d" % n for n in range(100)]
        assert revision == answer.header.revision


async def test_what_changes_between_two_pages_is_in_neither(
    shared: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(shared.config()) as client, client_of(shared.config()) as writer:
        for name in (b"a", b"b", b"c"):
            await writer.put(b"/pages/" + name, b"old")
        read = EtcdClient._read

        async def then_write(self: EtcdClient, *args: Any) -> Any:
            answer = await read(self, *args)
            await writer.put(b"/pages/c", b"new")
            return answer

        monkeypatch.setattr("dodici.collective.discovery.etcd.PAGE", 2)
        monkeypatch.setattr(EtcdClient, "_read", then_write)
        keys, _ = await client.list(b"/pages/")
        assert [key.value for key in keys] == [b"old"] * 3


async def test_no_endpoint_answers(own: Etcd) -> None:
    own.kill()
    async with client_of(own.config()) as client:
        with pytest.raises(PeerUnavailableError, match=f"etcd at {own.address} does not answer") as failed:
            await client.get(b"/key")
        assert failed.value.request_not_processed
        with pytest.raises(PeerUnavailableError):
            await client.renew(1)
    with pytest.raises(ClientClosedError, match="closed"):
        await client.get(b"/key")


async def test_a_write_that_was_sent_is_not_sent_again_but_a_read_is(shared: Etcd) -> None:
    async with Proxy(shared.port) as proxy:
        async with client_of(EtcdConfig((proxy.address, shared.address), timeout=0.3)) as client:
            revision = await client.put(b"/write", b"1")
            proxy.freeze()
            with pytest.raises(PeerUnavailableError) as failed:
                await client.put(b"/write", b"2")
            assert not failed.value.request_not_processed
            assert client.endpoint == shared.address
            assert await client.put(b"/write", b"3") == revision + 1

    async with Proxy(shared.port) as proxy:
        async with client_of(EtcdConfig((proxy.address, shared.address), timeout=0.3)) as client:
            await client.get(b"/write")
            proxy.freeze()
            there, _ = await client.get(b"/write")
            assert there is not None
            assert there.value == b"3"


async def test_a_write_that_was_never_sent_goes_to_another_endpoint(shared: Etcd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"127.0.0.1:{listener.getsockname()[1]}"
    async with client_of(EtcdConfig((dead, shared.address))) as client:
        assert await client.put(b"/never-sent", b"1") > 0
        assert client.endpoint == shared.address


async def test_a_lease_is_renewed_at_another_endpoint(shared: Etcd) -> None:
    async with Proxy(shared.port) as proxy:
        async with client_of(EtcdConfig((proxy.address, shared.address), timeout=0.3)) as client:
            lease, _ = await client.grant(10)
            proxy.freeze()
            assert await client.renew(lease)
            await client.revoke(lease)


# -- following


class Followed:
    """What `follow` tells, one at a time."""

    def __init__(self, client: EtcdClient, prefix: bytes, **options: Any) -> None:
        self._told = follow(client, prefix, backoff=Backoff(0.02, 0.2), **options)

    async def next(self, kind: type[Any], timeout: float = 10.0) -> Any:
        """The next that is of that kind and not a mere sign of life."""
        async with asyncio.timeout(timeout):
            async for told in self._told:
                if isinstance(told, kind) and not (isinstance(told, Changes) and not told.events):
                    return told
        raise AssertionError("the end")

    async def any(self, timeout: float = 10.0) -> Any:
        async with asyncio.timeout(timeout):
            return await anext(self._told)

    async def aclose(self) -> None:
        await self._told.aclose()  # type: ignore[attr-defined]


def values(changes: Changes) -> list[bytes]:
    return [event.kv.value for event in changes.events]


async def test_a_listing_then_the_changes(shared: Etcd) -> None:
    async with client_of(shared.config()) as client:
        await client.put(b"/follow/a", b"1")
        async with aclosing(Followed(client, b"/follow/")) as followed:
            listing = await followed.next(Listing)
            assert [key.value for key in listing.keys] == [b"1"]
            await client.put(b"/follow/b", b"2")
            await client.put(b"/followed", b"of another prefix")
            assert values(await followed.next(Changes)) == [b"2"]
            await client.delete(b"/follow/a")
            gone = await followed.next(Changes)
            assert [(event.type, event.kv.key) for event in gone.events] == [(pb.Event.DELETE, b"/follow/a")]


async def test_a_restart_loses_no_change_and_tells_none_twice(own: Etcd) -> None:
    async with client_of(own.config()) as client, client_of(own.config()) as writer:
        async with aclosing(Followed(client, b"/k")) as followed:
            await followed.next(Listing)
            await writer.put(b"/k", b"1")
            assert values(await followed.next(Changes)) == [b"1"]
            own.kill()
            assert isinstance((await followed.next(Interrupted)).error, PeerUnavailableError)
            own.restart()
            for value in (b"2", b"3"):
                await written(writer, value)
            told = values(await followed.next(Changes))
            while len(told) < 2:
                told += values(await followed.next(Changes))
            assert told == [b"2", b"3"]


async def written(writer: EtcdClient, value: bytes, *, key: bytes = b"/k") -> None:
    """Write when etcd answers again."""
    async with asyncio.timeout(10):
        while True:
            try:
                await writer.put(key, value)
                return
            except CollectiveError:
                await asyncio.sleep(0.02)


async def test_what_was_compacted_away_is_listed_anew(own: Etcd) -> None:
    async with Proxy(own.port) as proxy:
        async with (
            client_of(EtcdConfig((proxy.address,), timeout=0.5)) as client,
            client_of(own.config()) as writer,
        ):
            async with aclosing(Followed(client, b"/k", idle=0.2, patience=0.3)) as followed:
                await followed.next(Listing)
                await writer.put(b"/k/1", b"1")
                await followed.next(Changes)
                proxy.freeze()
                proxy.cut()
                await followed.next(Interrupted)
                await writer.delete(b"/k/1")
                revision = await writer.put(b"/k/2", b"2")
                await writer.compact(revision)
                proxy.thaw()
                proxy.cut()
                listing = await followed.next(Listing)
                assert [key.key for key in listing.keys] == [b"/k/2"]
                await writer.put(b"/k/3", b"3")
                assert values(await followed.next(Changes)) == [b"3"]


async def test_lost_data_are_noticed(own: Etcd) -> None:
    async with client_of(own.config()) as client:
        for _ in range(10):
            await client.put(b"/k/1", b"1")
        async with aclosing(Followed(client, b"/k/")) as followed:
            assert len((await followed.next(Listing)).keys) == 1
            await followed.any()
            own.restart(wipe=True)
            assert (await followed.next(Listing)).keys == ()


async def test_lost_data_are_noticed_by_the_term_too(own: Etcd) -> None:
    own.restart()
    async with client_of(own.config()) as client:
        await client.put(b"/k/1", b"1")
        async with aclosing(Followed(client, b"/k/")) as followed:
            assert len((await followed.next(Listing)).keys) == 1
            await followed.any()
            own.restart(wipe=True)
            async with client_of(own.config()) as writer:
                for _ in range(5):
                    await writer.put(b"/other", b"1")
            assert (await followed.next(Listing)).keys == ()


async def test_silence_is_noticed(own: Etcd) -> None:
    async with client_of(own.config(timeout=0.3)) as client:
        async with aclosing(Followed(client, b"/k/", idle=0.1, patience=0.3)) as followed:
            await followed.next(Listing)
            for _ in range(3):
                assert (await followed.any()).events == ()
            own.pause()
            assert "has not answered for 0.4 s" in str((await followed.next(Interrupted)).error)
            own.resume()
            async with asyncio.timeout(10):
                while not isinstance(await followed.any(), Changes):
                    pass


async def test_a_watch_goes_on_at_another_endpoint(shared: Etcd) -> None:
    async with Proxy(shared.port) as proxy, client_of(shared.config()) as writer:
        async with client_of(EtcdConfig((proxy.address, shared.address), timeout=0.5)) as client:
            async with aclosing(Followed(client, b"/moving/", idle=0.1, patience=0.3)) as followed:
                await followed.next(Listing)
                await followed.any()
                proxy.freeze()
                await writer.put(b"/moving/a", b"1")
                assert values(await followed.next(Changes)) == [b"1"]


async def test_heartbeats_keep_a_quiet_watch(shared: Etcd) -> None:
    async with client_of(shared.config()) as client:
        async with aclosing(Followed(client, b"/quiet/", idle=0.02, patience=0.5)) as followed:
            await followed.next(Listing)
            for _ in range(10):
                told = await followed.any()
                assert told == Changes(())
            await client.put(b"/quiet/a", b"1")
            assert values(await followed.next(Changes)) == [b"1"]


# -- TLS and users


def test_heartbeats_are_no_more_frequent_than_etcd_takes() -> None:
    from dodici.collective.discovery import etcd as etcd_module

    assert etcd_module.PING > 5
    assert watch_module.IDLE >= 5


async def test_tls_with_a_client_certificate(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority, foreign = trustme.CA(), trustme.CA()
    paths = {
        name: str(tmp_path / f"{name}.pem")
        for name in ("ca", "cert", "key", "server", "server_key", "foreign")
    }
    authority.cert_pem.write_to_path(paths["ca"])
    foreign.cert_pem.write_to_path(paths["foreign"])
    for prefix, name in (("", "client.test"), ("server", "127.0.0.1")):
        leaf = authority.issue_cert(name)
        leaf.private_key_pem.write_to_path(paths[f"{prefix}_key" if prefix else "key"])
        leaf.cert_chain_pems[0].write_to_path(paths[prefix or "cert"])
    tls = [
        "--cert-file", paths["server"], "--key-file", paths["server_key"],
        "--trusted-ca-file", paths["ca"], "--client-cert-auth",
    ]  # fmt: skip
    with etcd(tmp_path, tls=tls) as server:
        good = EtcdConfig((server.address,), tls=True, ca=paths["ca"], cert=paths["cert"], key=paths["key"])
        async with client_of(good) as client:
            assert await client.put(b"/tls", b"1") > 0
        nobody = EtcdConfig((server.address,), tls=True, ca=paths["ca"], timeout=1.0)
        stranger = EtcdConfig(
            (server.address,),
            tls=True,
            ca=paths["foreign"],
            cert=paths["cert"],
            key=paths["key"],
            timeout=1.0,
        )
        for config in (nobody, stranger):
            async with client_of(config) as client:
                with pytest.raises(PeerUnavailableError):
                    await client.get(b"/tls")


def test_a_tls_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot read the ca of the etcd client: .*nowhere"):
        EtcdClient(EtcdConfig(("127.0.0.1:1",), tls=True, ca=str(tmp_path / "nowhere")))


def etcdctl(server: Etcd, *arguments: str, stdin: bytes = b"") -> None:
    subprocess.run(
        [program("etcdctl", "etcd-client"), f"--endpoints={server.address}", *arguments],
        check=True, capture_output=True, timeout=20, env={"ETCDCTL_API": "3"}, input=stdin,
    )  # fmt: skip


@pytest.fixture
def guarded(own: Etcd) -> Etcd:
    """An etcd with users: root, and `reader`, who may read and write below /mine/."""
    for command in (
        "user add root:secret",
        "user grant-role root root",
        "role add mine",
        "role grant-permission mine --prefix=true readwrite /mine/",
        "user add reader:p@ss",
        "user grant-role reader mine",
        "auth enable",
    ):
        etcdctl(own, *command.split())
    return own


async def test_a_user_with_a_password(guarded: Etcd) -> None:
    async with client_of(guarded.config(user="reader", password="p@ss")) as client:
        assert await client.put(b"/mine/a", b"1") > 0
        with pytest.raises(CollectiveError, match="permission denied") as refused:
            await client.put(b"/theirs", b"1")
        assert refused.value.grpc_status is GrpcStatus.PERMISSION_DENIED
        async with aclosing(Followed(client, b"/mine/")) as followed:
            assert len((await followed.next(Listing)).keys) == 1
            await client.put(b"/mine/b", b"2")
            assert values(await followed.next(Changes)) == [b"2"]
            # Tokens do not survive a restart: a new one is asked for, by the call and by the watch.
            guarded.restart()
            async with asyncio.timeout(10):
                while True:
                    try:
                        await client.put(b"/mine/c", b"3")
                        break
                    except PeerUnavailableError:
                        await asyncio.sleep(0.02)
            assert values(await followed.next(Changes)) == [b"3"]


async def test_a_token_that_has_aged_is_replaced_within_the_call(guarded: Etcd) -> None:
    async with client_of(guarded.config(user="reader", password="p@ss")) as client:
        lease, _ = await client.grant(10)
        for call in (client.put(b"/mine/a", b"1"), client.renew(lease), client.get(b"/mine/a")):
            # A new password, though it is the old one, ends all tokens of the user.
            etcdctl(
                guarded,
                "--user",
                "root:secret",
                "user",
                "passwd",
                "reader",
                "--interactive=false",
                stdin=b"p@ss",
            )
            assert await call


async def test_a_watch_asks_for_a_new_token_by_itself(guarded: Etcd) -> None:
    async with client_of(guarded.config(user="reader", password="p@ss")) as client:
        async with client_of(guarded.config(user="root", password="secret")) as writer:
            async with aclosing(Followed(client, b"/mine/", idle=0.1, patience=0.5)) as followed:
                await followed.next(Listing)
                await followed.any()
                etcdctl(
                    guarded,
                    "--user",
                    "root:secret",
                    "user",
                    "passwd",
                    "reader",
                    "--interactive=false",
                    stdin=b"p@ss",
                )
                guarded.restart()
                async with asyncio.timeout(10):
                    while not isinstance(await followed.any(), Changes):
                        pass
                await written(writer, b"1", key=b"/mine/a")
                assert values(await followed.next(Changes)) == [b"1"]


async def test_a_wrong_password_is_said(guarded: Etcd) -> None:
    async with client_of(guarded.config(user="reader", password="wrong")) as client:
        with pytest.raises(CollectiveError, match="authentication failed"):
            await client.get(b"/mine/a")
    async with client_of(guarded.config()) as client:
        with pytest.raises(CollectiveError, match="user name is empty"):
            await client.get(b"/mine/a")


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"/a/", b"/a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0")],
    ids=["usual", "carried", "no end"],
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
