"""What the keys of etcd come to, without an etcd."""

from __future__ import annotations

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")

from dodici.collective.contracts import MemberRecord, MembersChanged
from dodici.collective.discovery.records import Claim, decode, key_part
from dodici.collective.discovery.roster import Roster
from dodici.collective.protos import etcd_pb2 as pb
from dodici.core.errors import InvalidArgumentError

PREFIX = b"/p/"


def key(name: str, epoch: int = 1, *namespaces: str) -> pb.KeyValue:
    record = MemberRecord(name, "127.0.0.1:1", namespaces, epoch=epoch, source="etcd")
    return pb.KeyValue(key=PREFIX + key_part(name), value=Claim(record, "i", "p").encode())


def put(name: str, epoch: int = 1, *namespaces: str) -> pb.Event:
    return pb.Event(type=pb.Event.PUT, kv=key(name, epoch, *namespaces))


def gone(name: str) -> pb.Event:
    return pb.Event(type=pb.Event.DELETE, kv=pb.KeyValue(key=PREFIX + key_part(name)))


def ids(change: MembersChanged | None) -> tuple[list[str], list[str], list[str]]:
    assert change is not None
    return tuple([each.id for each in part] for part in (change.added, change.changed, change.removed))  # type: ignore[return-value]


@pytest.fixture
def roster() -> Roster:
    made = Roster(PREFIX, PREFIX + b"me")
    made.last_seen = 100.0
    assert ids(made.listed([key("a"), key("b"), key("me")])) == (["a", "b"], [], [])
    return made


def test_events(roster: Roster) -> None:
    assert roster.changed([]) is None
    assert roster.changed([put("me", 9)]) is None
    assert roster.changed([put("a")]) is None
    assert ids(roster.changed([put("a", 2), gone("b"), put("c")])) == (["c"], ["a"], ["b"])
    assert roster.changed([put("d"), gone("d")]) is None
    assert roster.changed([gone("nobody")]) is None
    assert set(roster.members()) == {"a", "c"}
    assert roster.members()["a"].last_seen == 100.0


def test_a_listing_replaces_everything(roster: Roster) -> None:
    assert ids(roster.listed([key("b", 1, "users"), key("c")])) == (["c"], ["b"], ["a"])


def test_holding_keeps_who_disappears_until_it_is_released(roster: Roster) -> None:
    roster.holding = True
    assert roster.changed([gone("a")]) is None
    assert roster.listed([]) is None
    roster.last_seen = 200.0
    members = roster.members()
    assert [(members[name].alive, members[name].last_seen) for name in "ab"] == [(False, 100.0)] * 2
    assert ids(roster.changed([put("a", 2)])) == ([], ["a"], [])
    assert roster.members()["a"].alive
    assert roster.members()["a"].last_seen == 200.0
    assert roster.changed([gone("b"), put("b")]) is None, "back as it was"
    roster.changed([gone("b")])
    assert ids(roster.release()) == ([], [], ["b"])
    assert not roster.holding
    assert roster.release() is None
    assert ids(roster.changed([gone("a")])) == ([], [], ["a"])


def test_what_cannot_be_read_is_gone(roster: Roster) -> None:
    broken = pb.Event(type=pb.Event.PUT, kv=pb.KeyValue(key=PREFIX + b"a", value=b"?"))
    assert ids(roster.changed([broken])) == ([], [], ["a"])


def test_a_claim_survives_being_written() -> None:
    record = MemberRecord("a b", "[::1]:7", ("x", "y"), epoch=2**62 - 1, started=1.5, source="etcd")
    claim = Claim(record, "i", "host [::1]:7")
    with pytest.raises(InvalidArgumentError):
        decode(claim.encode())
    named = Claim(
        MemberRecord("a", "[::1]:7", ("x", "y"), epoch=2**62 - 1, started=1.5, source="etcd"), "i", "p q"
    )
    assert decode(named.encode()) == named


@pytest.mark.parametrize(
    "value",
    [
        b"", b"\xff", b"[]", b"{}", b"null", b'{"id":"a"}', b'{"id":"a","address":7}', b'{"id":7,"address":"a:1"}',
        b'{"id":"a","address":"a:1","namespaces":"x"}', b'{"id":"a","address":"a:1","namespaces":[1]}',
        b'{"id":"a","address":"a:1","epoch":true}', b'{"id":"a","address":"a:1","epoch":1.5}',
        b'{"id":"a","address":"a:1","started":"now"}', b'{"id":"a","address":"a:1","started":1e999}',
        b'{"id":"a","address":"a:1","started":NaN}', b'{"id":"a","address":"a:1","epoch":4611686018427387904}',
        b'{"id":"a","address":"a:1","epoch":-1}', b"[" * 100_000,
    ],
    ids=range(18),
)  # fmt: skip
def test_what_is_no_claim(value: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        decode(value)
