"""TRACE: what a request belongs to, said beside it."""

from __future__ import annotations

import pytest
from tests.wire.mesh.mesh_kit import Tape, frame, headed

from dodici.core.errors import LinkError
from dodici.core.trace import Trace
from dodici.wire.mesh import frames as f

ID, SPAN, ASKING = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "53995c3f42cd8ad8"
PARENT = f"00-{ID}-{SPAN}-01"
GET = b"GET\n/\nhttp\napi.local\nhost\napi.local"
PAYLOAD = f.trace(PARENT, ASKING, "a=1")


def test_what_is_said_is_what_is_read() -> None:
    assert f.read_trace(PAYLOAD) == Trace(ID, ASKING, 1, "a=1", None, PARENT)
    assert f.read_trace(f.trace(PARENT, ASKING, "")).tracestate == ""


def test_a_tracestate_that_is_too_long_is_left_out() -> None:
    kept = f.trace(PARENT, ASKING, "a=" + "x" * 4094)
    assert len(kept) == f.LIMITS[f.TRACE]
    assert f.read_trace(f.trace(PARENT, ASKING, "a=" + "x" * 4095)).tracestate == ""


@pytest.mark.parametrize("state", ["a=\xe9", "a=\n", "a=\u20ac"], ids=["latin", "line", "euro"])
def test_a_tracestate_that_is_no_field_is_left_out(state: str) -> None:
    assert f.read_trace(f.trace(PARENT, ASKING, state)).tracestate == ""


@pytest.mark.parametrize("state", ["", "a=1", "x" * 4096])
def test_two_fields_are_said_to_the_letter(state: str) -> None:
    said = f.trace_of(PARENT.encode(), state.encode())
    assert said is not None
    assert f.read_trace(said) == Trace(ID, SPAN, 1, state, None, PARENT)


@pytest.mark.parametrize(
    ("parent", "state"),
    [
        (PARENT.upper(), ""),
        (f"01{PARENT[2:]}-more", ""),
        (f"ff{PARENT[2:]}", ""),
        (PARENT[:-1], ""),
        ("", ""),
        (PARENT, "x" * 4097),
        (PARENT, "a=\xe9"),
    ],
    ids=["case", "version", "none", "short", "empty", "long", "latin"],
)
def test_fields_that_cannot_be_said_to_the_letter_are_not(parent: str, state: str) -> None:
    assert f.trace_of(parent.encode("latin-1"), state.encode("latin-1")) is None


def test_it_belongs_to_the_request_behind_it_and_to_no_other() -> None:
    tape = Tape()
    tape.engine.feed(
        frame(f.TRACE, 1, PAYLOAD) + headed(f.REQUEST | f.FINAL, 1, GET) + headed(f.REQUEST | f.FINAL, 2, GET)
    )
    traces = {number: stream.trace for number, stream in tape.engine.theirs.items()}
    assert traces == {1: Trace(ID, ASKING, 1, "a=1", None, PARENT), 2: None}


def test_it_is_written_before_its_request() -> None:
    ours, theirs = Tape(), Tape()
    stream = ours.open()
    ours.engine.open(stream, *rest_of(GET), whole=True, trace=PAYLOAD)
    theirs.engine.feed(ours.written())
    assert theirs.engine.theirs[1].trace == f.read_trace(PAYLOAD)


def rest_of(block: bytes) -> tuple[bytes, bytes]:
    data = headed(f.REQUEST | f.FINAL, 0, block)
    return data[:5], data[9:]


@pytest.mark.parametrize(
    ("before", "data", "text"),
    [
        (b"", frame(f.TRACE, 2, PAYLOAD), "TRACE of request 2 after request 0"),
        (frame(f.TRACE, 1, PAYLOAD), frame(f.TRACE, 1, PAYLOAD), "TRACE of request 1"),
        (
            headed(f.REQUEST | f.FINAL, 1, GET),
            frame(f.TRACE, 1, PAYLOAD),
            "TRACE of request 1 after request 1",
        ),
        (b"", frame(f.TRACE, 1, PAYLOAD[:70]), "malformed TRACE"),
        (b"", frame(f.TRACE, 1, PAYLOAD + b"\r\nx: y"), "malformed TRACE"),
        (b"", frame(f.TRACE, 1, b""), "malformed TRACE"),
        (b"", frame(f.TRACE, 1, b"0" * 71), "malformed TRACE"),
        (b"", frame(f.TRACE, 1, b"x" * (f.LIMITS[f.TRACE] + 1)), "are allowed"),
    ],
    ids=["ahead", "twice", "behind", "short", "state", "empty", "zeros", "long"],
)
def test_what_breaks_the_link(before: bytes, data: bytes, text: str) -> None:
    tape = Tape()
    tape.engine.feed(before)
    with pytest.raises(LinkError, match=text):
        tape.engine.feed(data)
