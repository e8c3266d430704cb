"""Events and diagnostics channels: who is called, in what order, and what a mistake costs."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from dodici.core import diagnostics
from dodici.core.errors import InvalidArgumentError
from dodici.core.events import EVENTS, EventEmitter


def listener_of(calls: list[Any], name: str) -> Any:
    return lambda *args: calls.append((name, *args))


def test_on_once_off() -> None:
    emitter = EventEmitter()
    calls: list[Any] = []
    a, b = listener_of(calls, "a"), listener_of(calls, "b")
    assert emitter.on("drain", a) is a
    assert emitter.once("drain", b) is b
    assert emitter.emit("drain", "http://o") is True
    assert emitter.emit("drain", "http://o") is True
    assert calls == [("a", "http://o"), ("b", "http://o"), ("a", "http://o")]
    assert emitter.off("drain", a) is True
    assert emitter.off("drain", a) is False
    assert emitter.emit("drain") is False
    assert EventEmitter().off("drain", a) is False


@pytest.mark.parametrize("event", EVENTS)
def test_every_event(event: str) -> None:
    emitter = EventEmitter()
    calls: list[Any] = []
    emitter.on(event, listener_of(calls, event))
    emitter.emit(event, 1)
    assert calls == [(event, 1)]


def test_emitters_do_not_share() -> None:
    one, other = EventEmitter(), EventEmitter()
    one.on("drain", print)
    assert other.emit("drain") is False


def test_undici_spelling() -> None:
    emitter = EventEmitter()
    calls: list[Any] = []
    listener = listener_of(calls, "x")
    emitter.on("connectionError", listener)
    assert emitter.emit("connection_error")
    assert emitter.off("connectionError", listener)


def test_wrong_arguments() -> None:
    emitter = EventEmitter()
    with pytest.raises(InvalidArgumentError, match="unknown event 'drian'; there are: connect"):
        emitter.on("drian", print)
    with pytest.raises(InvalidArgumentError, match="unknown event"):
        emitter.off("drian", print)
    with pytest.raises(InvalidArgumentError, match="must be callable"):
        emitter.once("drain", None)  # type: ignore[arg-type]


def test_the_same_listener_on_and_once() -> None:
    for first, second in (("on", "once"), ("once", "on")):
        emitter = EventEmitter()
        calls: list[Any] = []
        listener = listener_of(calls, "x")
        getattr(emitter, first)("drain", listener)
        getattr(emitter, second)("drain", listener)
        emitter.emit("drain")
        assert len(calls) == 2
        emitter.emit("drain")
        emitter.emit("drain")
        assert len(calls) == 4


def test_changes_while_emitting_count_from_the_next_time() -> None:
    emitter = EventEmitter()
    calls: list[Any] = []
    late = listener_of(calls, "late")

    def first() -> None:
        calls.append("first")
        emitter.off("drain", first)
        emitter.off("drain", late)
        emitter.on("drain", listener_of(calls, "new"))

    emitter.on("drain", first)
    emitter.on("drain", late)
    emitter.emit("drain")
    assert calls == ["first", ("late",)]
    emitter.emit("drain")
    assert calls[2:] == [("new",)]


def test_once_is_once_however_deep() -> None:
    emitter = EventEmitter()
    calls: list[int] = []

    def again() -> None:
        calls.append(1)
        emitter.emit("drain")

    emitter.once("drain", again)
    emitter.emit("drain")
    assert calls == [1]


def test_a_listener_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    emitter = EventEmitter()
    calls: list[Any] = []

    def fail() -> None:
        raise ValueError("oops")

    emitter.on("drain", fail)
    emitter.on("drain", listener_of(calls, "x"))
    with caplog.at_level(logging.ERROR, "dodici"):
        assert emitter.emit("drain") is True
    assert calls == [("x",)]
    assert "listener of 'drain' raised" in caplog.text
    assert "oops" in caplog.text


def test_channels(caplog: pytest.LogCaptureFixture) -> None:
    channel = diagnostics.channel("test:some")
    assert diagnostics.channel("test:some") is channel
    assert channel.subscribers == ()
    calls: list[Any] = []

    def subscriber(message: dict[str, Any], name: str) -> None:
        calls.append((message, name))

    def fail(message: dict[str, Any], name: str) -> None:
        channel.unsubscribe(fail)
        raise ValueError("oops")

    channel.subscribe(fail)
    channel.subscribe(subscriber)
    channel.subscribe(subscriber)
    with caplog.at_level(logging.ERROR, "dodici"):
        channel.publish({"a": 1})
    assert calls == [({"a": 1}, "test:some")] * 2
    assert "subscriber of test:some raised" in caplog.text
    assert channel.unsubscribe(subscriber) is True
    channel.publish({})
    assert len(calls) == 3
    assert channel.unsubscribe(subscriber) is True
    assert channel.unsubscribe(subscriber) is False
    assert channel.subscribers == ()


def test_1_7_names_of_channels() -> None:
    names = {value.name for value in vars(diagnostics).values() if isinstance(value, diagnostics.Channel)}
    assert names == {
        "undici:request:create",
        "undici:request:bodyChunkSent",
        "undici:request:bodySent",
        "undici:request:headers",
        "undici:request:bodyChunkReceived",
        "undici:request:trailers",
        "undici:request:error",
        "undici:client:beforeConnect",
        "undici:client:connected",
        "undici:client:connectError",
        "undici:client:sendHeaders",
    }
    for name in names:
        assert name in (diagnostics.__doc__ or "")
        assert diagnostics.channel(name).name == name
