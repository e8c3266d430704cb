"""`Relay`: one controller over changing inner ones."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dodici.core.controller import EndedController
from dodici.core.errors import RequestAbortedError, SocketError
from dodici.core.relay import Relay


class Inner(EndedController):
    http_version = "2"

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def abort(self, reason: Any = None) -> None:
        self.calls.append(reason)

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


class Loop:
    def __init__(self) -> None:
        self.ready: list[Any] = []
        self.closed = False

    def call_soon_threadsafe(self, callback: Any) -> None:
        if self.closed:
            raise RuntimeError("closed")
        self.ready.append(callback)


def make() -> tuple[Relay, Inner, Loop, list[BaseException]]:
    loop, aborted = Loop(), []  # type: ignore[var-annotated]
    return Relay(loop, aborted.append), Inner(), loop, aborted  # type: ignore[arg-type]


def elsewhere(call: Any) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_it_forwards_to_what_is_attached() -> None:
    relay, inner, _, aborted = make()
    assert relay.http_version == "1.1"
    relay.attach(inner)
    assert relay.inner is inner
    assert relay.http_version == "2"
    relay.pause()
    relay.pause()
    assert relay.paused
    relay.resume()
    relay.resume()
    error = SocketError("x")
    relay.abort(error)
    relay.abort(SocketError("y"))
    assert inner.calls == ["pause", "resume", error]
    assert (relay.aborted, relay.reason, aborted) == (True, error, [])


def test_it_remembers_while_nothing_is_attached() -> None:
    relay, inner, _, aborted = make()
    relay.pause()
    relay.attach(inner)
    assert inner.calls == ["pause"]
    relay.detach()
    relay.resume()
    again = Inner()
    relay.attach(again)
    assert again.calls == []
    relay.detach()
    relay.abort()
    assert isinstance(relay.reason, RequestAbortedError)
    assert aborted == [relay.reason]


def test_it_is_harmless_after_the_end() -> None:
    relay, inner, _, aborted = make()
    relay.attach(inner)
    relay.close()
    relay.pause()
    relay.resume()
    relay.abort()
    assert inner.calls == aborted == []
    assert (relay.paused, relay.aborted, relay.inner) == (False, True, None)


def test_the_last_word_of_another_thread_wins() -> None:
    relay, inner, loop, aborted = make()
    relay.attach(inner)
    elsewhere(lambda: (relay.pause(), relay.resume(), relay.abort("there")))
    while loop.ready:
        loop.ready.pop(0)()
    assert inner.calls[-2] == "resume"
    assert inner.calls[-1] is relay.reason
    assert aborted == []
    elsewhere(relay.pause)
    loop.ready.pop()()
    assert inner.calls[-1] == "pause"


def test_a_closed_loop_has_ended_it() -> None:
    relay, inner, loop, _ = make()
    relay.attach(inner)
    loop.closed = True
    elsewhere(relay.abort)
    assert "ended" in repr(relay)


@pytest.mark.parametrize("state", ["running", "paused", "aborted"])
def test_repr(state: str) -> None:
    relay, _, _, _ = make()
    {"running": lambda: None, "paused": relay.pause, "aborted": relay.abort}[state]()
    assert repr(relay) == f"<Relay {state}>"
