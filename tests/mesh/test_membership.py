"""The membership machine: versions, tickets, flags, and who is waited for."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dodici import InvalidArgumentError
from dodici.mesh.membership import Answer, Membership, MeshEvent, Publish
from dodici.mesh.snapshot import MemberInfo, MeshSnapshot


def info(member_id, **values):
    return MemberInfo(id=member_id, name=f"name of {member_id}", pid=1, kind="process", **values)


class Driver:
    """Carries out what the machine says: channels with messages in them, answers by ticket."""

    def __init__(self, *ids, **options):
        self.machine = Membership(**options)
        self.channels = {}
        self.applied = {}
        self.answers = {}
        self.events = []
        for each in ids:
            self.join(each)

    def take(self):
        outputs, self.machine.outputs = self.machine.outputs, []
        for output in outputs:
            if isinstance(output, Publish):
                self.channels[output.member_id].append(self.machine.snapshot_for(output.member_id))
            elif isinstance(output, Answer):
                assert output.ticket not in self.answers, "answered twice"
                self.answers[output.ticket] = [each.id for each in output.silent]
            else:
                assert isinstance(output, MeshEvent)
                self.events.append(output)

    def do(self, name, *arguments, **options):
        result = getattr(self.machine, name)(*arguments, **options)
        self.take()
        return result

    def join(self, member_id, **values):
        self.do("join", info(member_id, **values))
        self.channels[member_id] = []
        self.applied[member_id] = self.machine.snapshot_for(member_id)

    def gone(self, member_id):
        self.do("gone", member_id)
        self.channels.pop(member_id, None)
        self.applied.pop(member_id, None)

    def deliver(self, member_id):
        """The member reads one message, and acknowledges it."""
        if not self.channels.get(member_id):
            return
        snapshot = self.channels[member_id].pop(0)
        assert snapshot.version > self.applied[member_id].version
        self.applied[member_id] = snapshot
        self.do("acknowledge", member_id, snapshot.version)

    def deliver_all(self):
        for member_id in self.channels:
            while self.channels[member_id]:
                self.deliver(member_id)


def test_a_ticket_is_answered_when_all_clients_have_applied_it():
    driver = Driver("a", "b", "c")
    driver.deliver_all()
    ticket = driver.do("update", "a", 0.0, paused=True)
    for member_id in "abc":
        assert ticket not in driver.answers
        driver.deliver(member_id)
    assert driver.answers[ticket] == []


def test_an_acknowledgement_counts_for_all_versions_before():
    driver = Driver("a", "b")
    driver.deliver_all()
    tickets = [driver.do("update", "a", 0.0, paused=bool(turn % 2)) for turn in (1, 2, 3)]
    for member_id in "ab":
        driver.do("acknowledge", member_id, driver.machine.version)
    assert [driver.answers[ticket] for ticket in tickets] == [[], [], []]


def test_a_stale_acknowledgement_changes_nothing():
    driver = Driver("a", "b")
    driver.deliver_all()
    ticket = driver.do("update", "a", 0.0, paused=True)
    driver.do("acknowledge", "b", driver.machine.version)
    driver.do("acknowledge", "b", 1)
    driver.do("acknowledge", "a", driver.machine.version)
    assert driver.answers[ticket] == []
    driver.do("acknowledge", "stranger", 1)


def test_a_version_that_does_not_exist_cannot_be_acknowledged():
    driver = Driver("a")
    with pytest.raises(ValueError, match="never published"):
        driver.do("acknowledge", "a", 99)


def test_the_same_value_again_waits_for_the_version_that_made_it_so():
    driver = Driver("a", "b")
    driver.deliver_all()
    first = driver.do("update", "a", 0.0, paused=True)
    version = driver.machine.version
    second = driver.do("update", "a", 1.0, paused=True)
    assert driver.machine.version == version
    driver.deliver("a")
    assert not driver.answers.keys() & {first, second}
    driver.deliver("b")
    assert (driver.answers[first], driver.answers[second]) == ([], [])
    third = driver.do("update", "a", 2.0, paused=True)
    assert driver.answers[third] == []


def test_silence_is_answered_at_the_deadline_and_again():
    driver = Driver("a", "b", timeout=5.0)
    driver.deliver_all()
    ticket = driver.do("update", "a", 10.0, paused=True)
    driver.deliver("a")
    assert driver.machine.next_deadline() == 15.0
    driver.do("tick", 14.9)
    assert ticket not in driver.answers
    driver.do("tick", 15.0)
    assert driver.answers[ticket] == ["b"]
    assert driver.machine.next_deadline() is None
    assert [event.member.id for event in driver.events if event.kind == "timeout"] == ["b"]
    again = driver.do("update", "a", 20.0, paused=True)
    assert again not in driver.answers
    driver.deliver("b")
    assert driver.answers[again] == []


def test_without_a_timeout_a_ticket_waits_for_ever():
    driver = Driver("a", "b", timeout=0)
    driver.deliver_all()
    ticket = driver.do("update", "a", 0.0, paused=True)
    assert driver.machine.next_deadline() is None
    driver.do("tick", 1e9)
    assert ticket not in driver.answers
    driver.deliver_all()
    assert driver.answers[ticket] == []


def test_the_dead_are_struck_off_and_those_who_join_later_are_not_added():
    driver = Driver("a", "b")
    driver.deliver_all()
    ticket = driver.do("update", "a", 0.0, paused=True)
    driver.join("late")
    assert driver.applied["late"].members["a"].paused
    driver.deliver("a")
    driver.gone("b")
    assert driver.answers[ticket] == []
    driver.gone("b")


def test_a_member_that_is_no_client_is_not_waited_for():
    driver = Driver("a")
    driver.do("join", info("address", app=True), client=False)
    driver.deliver_all()
    ticket = driver.do("route", "api", ["address"], 0.0)
    driver.deliver("a")
    assert driver.answers[ticket] == []


def test_flags_are_independent():
    driver = Driver("a")
    for values in ({"app": True}, {"accepting": False}, {"paused": True}, {"accepting": True}):
        driver.do("update", "a", 0.0, **values)
    member = driver.machine.info("a")
    assert (member.app, member.accepting, member.paused, member.available) == (True, True, True, False)
    driver.do("update", "a", 0.0, paused=False)
    assert driver.machine.info("a").available


def test_routes():
    driver = Driver("a", "b")
    driver.do("route", "api", ["a", "b", "a"], 0.0)
    driver.do("route", "api", ["a"], 0.0)
    driver.do("route", "web", ["b"], 0.0)
    assert driver.machine.snapshot().routes == {"api": ("a", "b"), "web": ("b",)}
    assert driver.machine.names_of("b") == ("api", "web")
    driver.do("unroute", [("api", "a"), ("api", "nobody"), ("nothing", "a")], 0.0)
    assert driver.machine.ids_of("api") == ("b",)
    driver.gone("b")
    assert driver.machine.snapshot().routes == {}
    with pytest.raises(InvalidArgumentError):
        driver.do("route", "api", ["b"], 0.0)


def test_leaving():
    driver = Driver("a", "b")
    driver.do("update", "a", 0.0, app=True)
    driver.do("route", "api", ["a"], 0.0)
    driver.deliver_all()
    ticket = driver.do("leave", "a", 0.0)
    again = driver.do("leave", "a", 0.0)
    assert driver.machine.snapshot().routes == {}
    driver.deliver_all()
    assert (driver.answers[ticket], driver.answers[again]) == ([], [])
    for refused in (
        lambda: driver.do("route", "api", ["a"], 0.0),
        lambda: driver.do("update", "a", 0.0, app=True),
        lambda: driver.do("join", info("a")),
        lambda: driver.do("update", "stranger", 0.0, paused=True),
    ):
        with pytest.raises(InvalidArgumentError):
            refused()
    assert [event.kind for event in driver.events[-3:]] == ["routed", "leaving", "unrouted"]


def test_forbidden_pairs_do_not_see_or_wait_for_each_other():
    asked = []

    def allow(name, other):
        asked.append((name, other))
        return (name, other) != ("front", "db")

    driver = Driver("c", "f", "d", "m", allow=allow)
    for member_id, name in (("f", "front"), ("d", "db"), ("m", "middle")):
        driver.do("route", name, [member_id], 0.0)
    driver.deliver_all()
    assert driver.machine.forbidden("f", "d")
    assert driver.machine.forbidden("d", "f")
    assert not driver.machine.forbidden("f", "f")
    assert set(driver.applied["f"].routes) == {"front", "middle"}
    assert set(driver.applied["d"].routes) == {"db", "middle"}
    assert set(driver.applied["c"].routes) == {"front", "db", "middle"}
    assert "d" not in driver.applied["f"].members
    ticket = driver.do("update", "d", 0.0, paused=True)
    for member_id in "cdm":
        driver.deliver(member_id)
    assert driver.answers[ticket] == []
    assert ("front", "db") in asked
    assert len(asked) == len(set(asked))


def test_allow_that_raises_changes_nothing():
    def allow(name, other):
        raise RuntimeError("no idea")

    driver = Driver("a", allow=allow)
    version = driver.machine.version
    with pytest.raises(RuntimeError):
        driver.do("route", "api", ["a"], 0.0)
    assert (driver.machine.version, driver.machine.snapshot().routes) == (version, {})


def test_a_snapshot_survives_json():
    driver = Driver("a", "b")
    driver.do("route", "api", ["b", "a"], 0.0)
    snapshot = driver.machine.snapshot()
    assert MeshSnapshot.from_json(snapshot.to_json()) == snapshot


class MembershipModel(RuleBasedStateMachine):
    """Any order of calls, deliveries, deaths and time: the promises of the module's essay."""

    @initialize(forbid=st.booleans())
    def begin(self, forbid):
        self.now = 0.0
        self.names = iter(range(10**6))
        allow = (lambda name, other: {name, other} != {"x", "y"}) if forbid else None
        self.driver = Driver("coordinator", timeout=5.0, allow=allow)
        self.flags = {}
        self.routes = {}
        self.made = {}  # the version in which a value became what it is
        self.wanted = {}  # of each open ticket: when it was taken, and which client has to have which version

    def here(self):
        return sorted(set(self.driver.channels) - {"coordinator"})

    def call(self, keys, changes, name, *arguments, **options):
        """Make a call about `keys`, `(member, value's name)`, of which `changes` are not so yet."""
        machine = self.driver.machine
        for key in changes:
            self.made[key] = machine.version + 1
        version = machine.version
        ticket = getattr(machine, name)(*arguments, **options)
        assert machine.version == version + bool(changes)
        wanted = {}
        for member, value in keys:
            for client in self.driver.channels:
                if not machine.forbidden(client, member):
                    wanted[client] = max(wanted.get(client, 0), self.made.get((member, value), 0))
        self.wanted[ticket] = (self.now, wanted)
        self.driver.take()

    @rule()
    def join(self):
        if len(self.here()) < 5:
            member_id = f"w{next(self.names)}"
            self.driver.join(member_id)
            self.flags[member_id] = {"app": False, "accepting": True, "paused": False}

    @rule(data=st.data(), flag=st.sampled_from(["app", "accepting", "paused"]), value=st.booleans())
    def update(self, data, flag, value):
        if self.here():
            member_id = data.draw(st.sampled_from(self.here()))
            key = (member_id, flag)
            changes = [key] if self.flags[member_id][flag] != value else []
            self.flags[member_id][flag] = value
            self.call([key], changes, "update", member_id, self.now, **{flag: value})

    @rule(data=st.data(), name=st.sampled_from("xyz"))
    def route(self, data, name):
        if self.here():
            ids = data.draw(st.lists(st.sampled_from(self.here()), min_size=1, unique=True))
            present = self.routes.setdefault(name, [])
            added = [each for each in ids if each not in present]
            present += added
            self.call([(i, name) for i in ids], [(i, name) for i in added], "route", name, ids, self.now)

    @rule(data=st.data(), name=st.sampled_from("xyz"))
    def unroute(self, data, name):
        if self.here():
            key = (data.draw(st.sampled_from(self.here())), name)
            present = key[0] in self.routes.get(name, [])
            if present:
                self.routes[name].remove(key[0])
            self.call([key], [key] if present else [], "unroute", [(name, key[0])], self.now)

    @rule(data=st.data())
    def die(self, data):
        if self.here():
            member_id = data.draw(st.sampled_from(self.here()))
            self.driver.gone(member_id)
            del self.flags[member_id]
            for ids in self.routes.values():
                if member_id in ids:
                    ids.remove(member_id)

    @rule(data=st.data(), count=st.integers(1, 4))
    def deliver(self, data, count):
        member_id = data.draw(st.sampled_from(sorted(self.driver.channels)))
        for _ in range(count):
            self.driver.deliver(member_id)

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds):
        self.now += seconds
        self.driver.do("tick", self.now)

    @invariant()
    def an_answer_is_true(self):
        for ticket in self.wanted.keys() & self.driver.answers.keys():
            began, wanted = self.wanted.pop(ticket)
            silent = self.driver.answers[ticket]
            assert not silent or self.now >= began + 5.0
            for client, version in wanted.items():
                if client in self.driver.applied and client not in silent:
                    assert self.driver.applied[client].version >= version

    @invariant()
    def nobody_waits_longer_than_the_timeout(self):
        waiting = self.driver.machine._tickets.values()
        assert all(ticket.deadline <= self.now + 5.0 for ticket in waiting)
        assert {ticket.number for ticket in waiting} == self.wanted.keys()

    def teardown(self):
        if not hasattr(self, "driver"):
            return
        self.driver.deliver_all()
        machine = self.driver.machine
        self.an_answer_is_true()
        assert not self.wanted
        assert not machine._tickets
        assert not machine._changed, "remembered although everybody has seen it"
        final = machine.snapshot()
        assert {name: list(ids) for name, ids in final.routes.items()} == {
            name: ids for name, ids in self.routes.items() if ids
        }
        for member_id, flags in self.flags.items():
            member = final.members[member_id]
            assert {flag: getattr(member, flag) for flag in flags} == flags
        for member_id, snapshot in self.driver.applied.items():
            expected = machine.snapshot_for(member_id)
            if snapshot.version == machine.version:
                assert snapshot == expected
            else:  # nothing was published after it joined
                assert snapshot.routes == expected.routes


TestMembershipModel = MembershipModel.TestCase
TestMembershipModel.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
