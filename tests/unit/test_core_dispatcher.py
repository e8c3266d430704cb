"""`compose()`, what a composed dispatcher passes on, and what makes a handler one."""

from __future__ import annotations

from typing import Any

import pytest

from dodici.core.dispatcher import ComposedDispatcher, Dispatcher
from dodici.core.errors import InvalidArgumentError
from dodici.core.handler import DecoratorHandler, DispatchHandler, Handler, check_handler, known_handlers
from dodici.core.headers import EMPTY
from dodici.core.options import DispatchOptions


class Base(Dispatcher):
    stats = "some stats"

    def __init__(self, origin: str | None = None) -> None:
        self.origin = origin
        self.seen: list[Any] = []
        self.calls: list[Any] = []

    def dispatch(self, options: Any, handler: Any) -> bool:
        self.seen.append((options, handler))
        return False

    async def close(self) -> None:
        self.calls.append("close")

    async def destroy(self, error: BaseException | None = None) -> None:
        self.calls.append(error)

    @property
    def closed(self) -> bool:
        return "close" in self.calls

    @property
    def destroyed(self) -> bool:
        return len(self.calls) > 1


def naming(name: str, order: list[str]) -> Any:
    def interceptor(dispatch: Any) -> Any:
        def dispatched(options: Any, handler: Any) -> bool:
            order.append(name)
            return bool(dispatch(options, handler))

        return dispatched

    return interceptor


def test_1_6_the_last_is_the_outermost() -> None:
    base, order = Base(), []  # type: ignore[var-annotated]
    composed = base.compose(naming("a", order), None, [naming("b", order), [None, (naming("c", order),)]])
    assert composed.dispatch(DispatchOptions(), DispatchHandler()) is False
    assert order == ["c", "b", "a"]
    composed.compose(naming("d", order)).dispatch({}, DispatchHandler())
    assert order[3:] == ["d", "c", "b", "a"]
    assert len(base.seen) == 2
    base.compose().dispatch({}, DispatchHandler())
    assert len(base.seen) == 3


@pytest.mark.parametrize("wrong", [5, "x", {"a": 1}, [5]])
def test_1_6_interceptors_are_callable(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="interceptor must be callable"):
        Base().compose(wrong)


def test_interceptors_return_a_dispatch_function() -> None:
    with pytest.raises(InvalidArgumentError, match="must return a dispatch function"):
        Base().compose(lambda dispatch: None)  # type: ignore[arg-type, return-value]


def test_1_6_a_composed_client_fills_in_its_origin() -> None:
    base = Base("http://a")
    composed = base.compose(lambda dispatch: dispatch)
    assert composed.origin == "http://a"
    handler = DispatchHandler()
    composed.dispatch({"path": "/x"}, handler)
    composed.dispatch(DispatchOptions(origin="http://b"), handler)
    assert [(options.origin, options.path) for options, _ in base.seen] == [
        ("http://a", "/x"),
        ("http://b", "/"),
    ]
    agent = Base().compose(lambda dispatch: dispatch)
    options = DispatchOptions()
    agent.dispatch(options, handler)
    assert agent.base.seen[0][0] is options  # type: ignore[attr-defined]


def test_bad_options_reach_the_handler_at_once() -> None:
    errors: list[Any] = []

    class Recorder(DispatchHandler):
        def on_response_error(self, controller: Any, error: BaseException) -> None:
            errors.append((controller.aborted, error))

    base = Base()
    composed = base.compose(lambda dispatch: dispatch)
    for options in (
        {"path": "x"},
        {"pth": "/"},
        None,
        {"body": "\ud800"},
        {"query": {"a": "\ud800"}},
        {"timeout": -1},
    ):
        assert composed.dispatch(options, Recorder()) is False  # type: ignore[arg-type]
        aborted, error = errors.pop()
        assert not aborted
        assert isinstance(error, InvalidArgumentError)
    assert base.seen == errors == []
    with pytest.raises(InvalidArgumentError, match="no method on_request_start"):
        composed.dispatch({"path": "x"}, object())  # type: ignore[arg-type]


async def test_the_rest_is_the_base_s() -> None:
    base = Base()
    composed = base.compose(lambda dispatch: dispatch)
    assert isinstance(composed, ComposedDispatcher)
    calls: list[Any] = []
    listener = composed.on("drain", calls.append)
    composed.once("connect", calls.append)
    base.emit("drain", 1)
    base.emit("connect", 2)
    assert composed.off("drain", listener)
    assert not base.emit("drain", 3)
    assert calls == [1, 2]
    assert composed.stats == "some stats"
    assert (composed.closed, composed.destroyed) == (False, False)
    async with composed as entered:
        assert entered is composed
    error = ValueError()
    await composed.destroy(error)
    assert base.calls == ["close", error]
    assert (composed.closed, composed.destroyed) == (True, True)


def test_the_verbs_know_their_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    class Verbs:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **options: (name, args, options)

    monkeypatch.setattr("dodici.core.dispatcher._api", Verbs())
    base = Base()
    for name in ("request", "pipeline"):
        verb, args, options = getattr(base, name)("http://a", timeout=1)
        assert verb == name
        assert base in (*args, *options.values())
    verb, args, options = base.stream("GET", "http://a")
    assert verb == "stream"
    assert base in (*args, *options.values())


def test_verbs_are_loaded_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    import dodici.core.dispatcher as module

    monkeypatch.setattr(module, "_api", None)
    assert module._verbs() is module._verbs()


# -- handlers ------------------------------------------------------------------------------------------

MANDATORY = (
    "on_request_start",
    "on_response_start",
    "on_response_data",
    "on_response_end",
    "on_response_error",
)


@pytest.mark.parametrize("missing", MANDATORY)
def test_2_1_handlers_have_every_method(missing: str) -> None:
    kind = type("Lacking", (), {name: print for name in MANDATORY if name != missing})
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match=f"Lacking has no method {missing}"):
            check_handler(kind(), False)


def test_2_1_upgrades_need_one_more() -> None:
    kind = type("Plain", (), dict.fromkeys(MANDATORY, print))
    check_handler(kind(), False)
    with pytest.raises(InvalidArgumentError, match="on_request_upgrade"):
        check_handler(kind(), True)
    check_handler(DispatchHandler(), True)


def test_methods_of_the_instance_count_for_it_alone() -> None:
    class Bare:
        pass

    bare = Bare()
    for name in MANDATORY:
        setattr(bare, name, print)
    check_handler(bare, False)
    with pytest.raises(InvalidArgumentError):
        check_handler(Bare(), False)


def test_classes_made_at_run_time_do_not_pile_up() -> None:
    for _ in range(1100):
        check_handler(type("Made", (DispatchHandler,), {})(), False)
    assert len(known_handlers) <= 1024
    known_handlers.clear()


def test_handlers_do_nothing_by_default() -> None:
    handler = DispatchHandler()
    assert isinstance(handler, Handler)
    controller: Any = None
    handler.on_request_start(controller, {})
    handler.on_response_start(controller, 200, EMPTY, "")
    handler.on_response_data(controller, b"x")
    handler.on_response_end(controller, EMPTY)
    handler.on_response_error(controller, ValueError())
    with pytest.raises(InvalidArgumentError, match="DispatchHandler does not handle upgrades"):
        handler.on_request_upgrade(controller, 101, EMPTY, None)


def test_decorators_pass_everything_on() -> None:
    calls: list[Any] = []

    class Everything:
        def __getattr__(self, name: str) -> Any:
            return lambda *args: calls.append((name, *args))

    handler = DecoratorHandler(Everything())
    expected = [
        ("on_dispatch", 1),
        ("on_request_start", 1, {}),
        ("on_response_start", 1, 200, EMPTY, "OK"),
        ("on_response_data", 1, b"x"),
        ("on_response_end", 1, EMPTY),
        ("on_response_error", 1, None),
        ("on_request_upgrade", 1, 101, EMPTY, None),
    ]
    for name, *args in expected:
        getattr(handler, name)(*args)
    assert calls == expected
    DecoratorHandler(DispatchHandler()).on_dispatch(None)  # type: ignore[arg-type]
