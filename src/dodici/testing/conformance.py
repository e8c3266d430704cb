"""The contract of `dispatch()` as a test suite that any `Dispatcher` can be put through.

A subclass says how to reach one; pytest does the rest:

    class TestMyDispatcher(DispatcherConformance):
        @pytest_asyncio.fixture
        async def target(self):
            async with serve_somewhere(conformance_app) as origin:
                dispatcher = MyDispatcher()
                yield Target(dispatcher, origin, features=FEATURES - {"trailers"})
                await dispatcher.destroy()

The origin serves `dodici.testing.conformance_app`, by whatever means: nothing here knows of sockets. What a
layer cannot do it leaves out of `features`, and the tests that need it skip and say so. Needs pytest and
pytest-asyncio.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

from ..core.dispatcher import ComposedDispatcher
from ..core.errors import (
    BodyTimeoutError,
    ClientClosedError,
    ClientDestroyedError,
    DodiciError,
    HeadersTimeoutError,
    InvalidArgumentError,
    NotSupportedError,
    RequestAbortedError,
    RequestContentLengthMismatchError,
    RequestTimeoutError,
)
from ..core.handler import DispatchHandler
from ..core.options import DispatchOptions
from .app import BoardControl, Control, conformance_app, pattern
from .recorder import DATA, END, ERROR, RESPONSE, START, RecordingHandler, settle

if TYPE_CHECKING:
    from ..core.dispatcher import Dispatcher

FEATURES: Final[frozenset[str]] = frozenset(
    {
        "app-errors",  # an app that raises before the head is a 500, after it an error
        "backpressure",  # what is not read holds back the sender
        "bodiless-length",  # a content-length with HEAD and 304
        "disconnect",  # the app hears of an exchange that was given up
        "informational",  # 103 through `http.response.early_hint`
        "on-dispatch",  # `on_dispatch(controller)` of a handler is called
        "streamed-requests",  # bodies of unknown length
        "timeouts",  # headers_timeout and body_timeout
        "trailers",  # `http.response.trailers`
        "verbs",  # request() and stream()
    }
)
"""Everything that a layer may leave out."""

_TIMEOUT = 10.0
_BIG = 8 << 20
_ENDLESS = 64 << 20  # more than kernels buffer for a connection
_numbers = itertools.count(1)


class Target:
    """A dispatcher under test, and how to reach the app behind it.

    Args:
        dispatcher: the one under test. The fixture destroys it afterwards.
        origin: goes into every dispatch.
        features: what of `FEATURES` it can do.
        control: reaches the app's board; by default that of `conformance_app` in this process.
        options: for every dispatch.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        origin: str,
        *,
        features: Iterable[str] = FEATURES,
        control: Control | None = None,
        **options: Any,
    ) -> None:
        self.dispatcher = dispatcher
        self.origin = origin
        self.features = frozenset(features)
        unknown = self.features - FEATURES
        if unknown:
            raise InvalidArgumentError(
                f"unknown feature {min(unknown)!r}; there are: {', '.join(sorted(FEATURES))}"
            )
        self.control: Control = control or BoardControl(conformance_app.board)
        self.recorders: list[RecordingHandler] = []
        self._options = options

    def need(self, *features: str) -> None:
        """Skip the running test if the layer lacks one of these."""
        for feature in features:
            if feature not in self.features:
                pytest.skip(f"{type(self.dispatcher).__name__} here has no {feature!r}")

    def token(self) -> str:
        """A name for one request, used by nobody else."""
        return f"t{os.getpid()}-{next(_numbers)}"

    def options(self, path: str, **more: Any) -> dict[str, Any]:
        """Dispatch options for a path of the app."""
        return {"origin": self.origin, "path": path, **self._options, **more}

    def recorder(self, **hooks: Any) -> RecordingHandler:
        """A recorder whose promises are checked at the end of the test, too."""
        recorder = RecordingHandler(**hooks)
        self.recorders.append(recorder)
        return recorder

    def send(self, path: str, recorder: RecordingHandler | None = None, **options: Any) -> RecordingHandler:
        """Dispatch and return the recorder."""
        recorder = recorder or self.recorder()
        recorder.dispatch(self.dispatcher, self.options(path, **options))
        return recorder

    async def fetch(self, path: str, **options: Any) -> RecordingHandler:
        """Dispatch, wait, and require success."""
        recorder = await self.send(path, **options).wait()
        if recorder.error is not None:
            raise AssertionError(f"{path} failed: {recorder.summary()}") from recorder.error
        return recorder

    async def usable(self) -> None:
        """Require that the dispatcher still serves."""
        for _ in range(2):
            assert (await self.fetch("/empty")).status_code == 200

    async def seen(self, name: str) -> None:
        """Wait for an event of the app."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self.control.wait(name)
        except TimeoutError:
            raise TimeoutError(f"the app never told {name!r}") from None

    async def open(self, token: str, *events: str) -> None:
        """Let the app go on."""
        for event in events:
            await self.control.set(f"{token}:{event}")

    async def count(self, token: str, what: str = "count") -> int:
        """A number of the app's."""
        return await self.control.get(f"{token}:{what}")

    async def steady(self, read: Callable[[], Any]) -> int:
        """Wait until what `read()` gives (or an awaitable of it) has stopped changing; that value."""
        last, same = -1, 0
        async with asyncio.timeout(_TIMEOUT):
            while same < 5:
                value = read()
                if asyncio.iscoroutine(value):
                    value = await value
                same = same + 1 if value == last else 0
                last = value
                # The one thing that no event tells: that nothing more happens.
                await asyncio.sleep(0.02)
        return last


class Source:
    """An iterable body that counts: `pulled` chunks, `closed` times."""

    def __init__(self, *chunks: bytes, error: BaseException | None = None, endless: bytes = b"") -> None:
        self.pulled = 0
        self.closed = 0
        self._chunks = list(chunks)
        self._error = error
        self._endless = endless

    def next_chunk(self) -> bytes | None:
        """The next chunk; None at the end."""
        self.pulled += 1
        if self._chunks:
            return self._chunks.pop(0)
        if self._error is not None:
            raise self._error
        return self._endless or None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self.next_chunk()
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Count the closing."""
        self.closed += 1


class AsyncSource:
    """The same, asynchronous: closed by `aclose()`."""

    def __init__(self, *chunks: bytes, error: BaseException | None = None, endless: bytes = b"") -> None:
        self._source = Source(*chunks, error=error, endless=endless)

    @property
    def pulled(self) -> int:
        """How many chunks were asked for."""
        return self._source.pulled

    @property
    def closed(self) -> int:
        """How often it was closed."""
        return self._source.closed

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        chunk = self._source.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Count the closing."""
        self._source.close()


class FileSource(io.BytesIO):
    """A file that counts how often it was closed."""

    closings = 0

    def close(self) -> None:
        """Count the closing."""
        self.closings += 1
        super().close()


_SOURCES = pytest.mark.parametrize("source_class", [Source, AsyncSource], ids=["iterable", "async-iterable"])


async def _agen(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


_TEXT = "grüße, ἀδελφοί"
_BODY = pattern(100_000)
_PIECES = [_BODY[at : at + 7001] for at in range(0, len(_BODY), 7001)]


def _spooled(body: bytes) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the test closes it
    file.write(body)
    file.seek(0)
    return file


_BODIES: dict[str, tuple[Callable[[], Any], bytes]] = {
    "none": (lambda: None, b""),
    "empty": (lambda: b"", b""),
    "str": (lambda: _TEXT, _TEXT.encode()),
    "bytes": (lambda: _BODY, _BODY),
    "bytearray": (lambda: bytearray(_BODY), _BODY),
    "memoryview": (lambda: memoryview(_BODY), _BODY),
    "strided-memoryview": (lambda: memoryview(_BODY)[::2], _BODY[::2]),
    "bytesio": (lambda: io.BytesIO(_BODY), _BODY),
    "file": (lambda: _spooled(_BODY), _BODY),
    "list": (lambda: list(_PIECES), _BODY),
    "generator": (lambda: (piece for piece in _PIECES), _BODY),
    "async-generator": (lambda: _agen(_PIECES), _BODY),
    "with-empty-chunks": (lambda: _agen([b"", b"a", b"", b"b", b""]), b"ab"),
    "empty-generator": (lambda: iter(()), b""),
}
_STREAMED = {
    "bytesio",
    "file",
    "list",
    "generator",
    "async-generator",
    "with-empty-chunks",
    "empty-generator",
}


def _raising(error: BaseException) -> Callable[..., None]:
    def hook(*_: object) -> None:
        raise error

    return hook


class DeliberateError(Exception):
    """Raised by the tests' own callbacks and sources."""


class _LoopComplaints:
    """What the loop's exception handler was told while this is entered."""

    def __enter__(self) -> list[dict[str, Any]]:
        self.contexts: list[dict[str, Any]] = []
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.contexts.append(context))
        return self.contexts

    def __exit__(self, *_: object) -> None:
        self._loop.set_exception_handler(None)


@pytest.mark.asyncio
class DispatcherConformance:
    """Inherit and give the fixture `target`: see the module's text."""

    @pytest.fixture
    def target(self) -> Target:
        """What to test: a `Target`. Override it."""
        raise NotImplementedError("a subclass of DispatcherConformance overrides the fixture 'target'")

    @pytest.fixture(autouse=True)
    def _promises(self, target: Target) -> Iterator[None]:
        yield
        for recorder in target.recorders:
            recorder.check()

    # --------------------------------------------------------------------- a dispatch that goes well

    async def test_callbacks_come_in_order(self, target: Target) -> None:
        """Start, head, data, end: each at its time and the last one once."""
        recorder = await target.fetch("/bytes/1000")
        assert recorder.names == ["request_start", "response_start", "response_data", "response_end"]
        assert recorder.body == pattern(1000)
        assert recorder.headers is not None
        assert recorder.headers["content-length"] == "1000"
        assert recorder.status_code == 200
        assert recorder.trailers is not None
        assert not recorder.trailers
        assert recorder.starts == 1
        assert not recorder.controller.aborted
        assert not recorder.controller.paused
        assert recorder.controller.reason is None

    async def test_nothing_is_told_inside_dispatch(self, target: Target) -> None:
        """Even an idle, connected dispatcher tells nothing before dispatch() has returned."""
        await target.fetch("/empty")
        recorder = target.send("/empty")
        assert recorder.calls == []
        await recorder.wait()

    async def test_empty_body_has_no_data(self, target: Target) -> None:
        """A body of length 0 ends without on_response_data."""
        recorder = await target.fetch("/empty")
        assert recorder.names == ["request_start", "response_start", "response_end"]

    async def test_streamed_response_of_unknown_length(self, target: Target) -> None:
        """A body without content-length arrives whole."""
        recorder = await target.fetch("/stream/300000?chunk=10007")
        assert recorder.body == pattern(300_000)

    async def test_large_body(self, target: Target) -> None:
        """8 MiB arrive whole and in order."""
        recorder = target.recorder(keep_body=False)
        await target.send(f"/bytes/{_BIG}", recorder).wait()
        assert recorder.error is None
        assert recorder.body_size == _BIG
        assert recorder.digest == hashlib.sha256(pattern(_BIG)).hexdigest()

    @pytest.mark.parametrize("status", [200, 201, 301, 400, 404, 418, 500, 503])
    async def test_status_is_told_and_judged_by_nobody(self, target: Target, status: int) -> None:
        """Every final status ends with on_response_end."""
        recorder = await target.fetch(f"/status/{status}")
        assert recorder.status_code == status
        assert recorder.body == b"status %d" % status

    @pytest.mark.parametrize("status", [204, 304])
    async def test_statuses_without_a_body(self, target: Target, status: int) -> None:
        """204 and 304 end at their head."""
        recorder = await target.fetch(f"/status/{status}")
        assert recorder.status_code == status
        assert recorder.body == b""
        await target.usable()

    async def test_304_with_a_length_has_no_body(self, target: Target) -> None:
        """The content-length of a 304 is that of another response."""
        target.need("bodiless-length")
        recorder = await target.fetch("/status/304?length=10")
        assert (recorder.status_code, recorder.body) == (304, b"")
        await target.usable()

    async def test_head(self, target: Target) -> None:
        """A HEAD has no body, whatever its content-length says."""
        recorder = await target.fetch("/empty", method="HEAD")
        assert recorder.names == ["request_start", "response_start", "response_end"]
        if "bodiless-length" in target.features:
            recorder = await target.fetch("/status/200?length=1000", method="HEAD")
            assert recorder.headers is not None
            assert recorder.headers["content-length"] == "1000"
            assert recorder.body == b""
        await target.usable()

    async def test_repeated_headers(self, target: Target) -> None:
        """Repeated fields stay apart in their order; set-cookie is joined by nobody."""
        headers = (await target.fetch("/repeated")).headers
        assert headers is not None
        assert headers.get_list("set-cookie") == ["a=1", "b=2, c"]
        assert headers["SET-cookie"] == "a=1"
        assert headers.get_list("x-many") == ["one", "two"]
        assert headers["x-many"] == "one, two"

    async def test_informational_responses_precede_the_final_one(self, target: Target) -> None:
        """A 103 is one on_response_start of its own, without data or end."""
        target.need("informational")
        recorder = await target.fetch("/hints")
        assert [status for status, _ in recorder.informational] == [103]
        assert recorder.informational[0][1]["link"] == "</style.css>; rel=preload"
        assert (recorder.status_code, recorder.body) == (200, b"hinted")
        assert recorder.names[:3] == ["request_start", "response_start", "response_start"]

    async def test_trailers(self, target: Target) -> None:
        """Trailers reach on_response_end, repeated ones too."""
        target.need("trailers")
        recorder = await target.fetch("/trailers")
        assert recorder.body == b"body"
        assert recorder.trailers is not None
        assert recorder.trailers["x-sum"] == "42"
        assert recorder.trailers.get_list("x-many") == ["one", "two"]

    # ------------------------------------------------------------------------------- what is sent

    async def test_the_app_gets_what_was_dispatched(self, target: Target) -> None:
        """Method, path, query, headers and body arrive as given."""
        recorder = await target.fetch(
            "/echo",
            method="POST",
            query={"a": ["1", "2"], "b": "x y"},
            headers=[("X-One", "1"), ("x-many", "a"), ("x-many", "b"), ("x-number", 7)],
            body=b"hello",
        )
        told = json.loads(recorder.body)
        assert (told["method"], told["path"], told["query"]) == ("POST", "/echo", "a=1&a=2&b=x+y")
        fields = [(name.lower(), value) for name, value in told["headers"]]
        assert ("x-one", "1") in fields
        assert ("x-number", "7") in fields
        many = [value for name, value in fields if name == "x-many"]
        assert many in (["a", "b"], ["a, b"])
        assert (told["size"], told["sha256"]) == (5, hashlib.sha256(b"hello").hexdigest())

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"])
    async def test_methods(self, target: Target, method: str) -> None:
        """Any token is a method."""
        assert json.loads((await target.fetch("/echo", method=method)).body)["method"] == method

    @pytest.mark.parametrize("kind", _BODIES)
    async def test_body_kinds(self, target: Target, kind: str) -> None:
        """Every kind of body arrives whole."""
        if kind in _STREAMED:
            target.need("streamed-requests")
        make, expected = _BODIES[kind]
        body = make()
        told = json.loads((await target.fetch("/echo", method="POST", body=body)).body)
        assert (told["size"], told["sha256"]) == (len(expected), hashlib.sha256(expected).hexdigest())
        await target.usable()
        if kind == "file":
            body.close()

    @_SOURCES
    async def test_stated_length_of_a_streamed_body(self, target: Target, source_class: Any) -> None:
        """A content-length that is true is sent."""
        target.need("streamed-requests")
        recorder = await target.fetch(
            "/echo", method="PUT", body=source_class(b"abc", b"de"), headers={"content-length": "5"}
        )
        told = json.loads(recorder.body)
        assert told["size"] == 5
        assert ["content-length", "5"] in told["headers"]

    async def test_options_are_reusable(self, target: Target) -> None:
        """One options object may be dispatched again and again, at the same time too."""
        options = DispatchOptions(
            **target.options("/echo", method="POST", body=b"again", headers={"x-a": "1"})
        )
        for _ in range(5):
            recorder = target.recorder()
            recorder.dispatch(target.dispatcher, options)
            assert json.loads((await recorder.wait()).body)["size"] == 5
        recorders = [target.recorder() for _ in range(20)]
        for recorder in recorders:
            recorder.dispatch(target.dispatcher, options)
        for recorder in recorders:
            assert json.loads((await recorder.wait()).body)["size"] == 5

    async def test_200_dispatches_at_once(self, target: Target) -> None:
        """None is lost, none is answered with another's response, whatever the limits."""
        recorders = [target.send(f"/echo?n={number}") for number in range(200)]
        for number, recorder in enumerate(recorders):
            await recorder.wait()
            assert recorder.error is None
            assert json.loads(recorder.body)["query"] == f"n={number}"

    # ------------------------------------------------------------------------- arguments that are wrong

    @pytest.mark.parametrize(
        ("wrong", "kind"),
        [
            ({"path": "no-slash"}, InvalidArgumentError),
            ({"path": "/a b"}, InvalidArgumentError),
            ({"path": "/a\r\nx: y"}, InvalidArgumentError),
            ({"path": 7}, InvalidArgumentError),
            ({"method": "GE T"}, InvalidArgumentError),
            ({"method": None}, InvalidArgumentError),
            ({"headers": {"x-a": "1\r\nx-b: 2"}}, InvalidArgumentError),
            ({"headers": {"x a": "1"}}, InvalidArgumentError),
            ({"headers": {"x-a": object()}}, InvalidArgumentError),
            ({"headers": {"transfer-encoding": "chunked"}}, InvalidArgumentError),
            ({"headers": [("content-length", "1"), ("content-length", "1")]}, InvalidArgumentError),
            ({"headers": {"expect": "100-continue"}}, NotSupportedError),
            ({"body": 7}, InvalidArgumentError),
            ({"body": {"a": 1}}, InvalidArgumentError),
            (
                {"method": "POST", "body": b"abc", "headers": {"content-length": "2"}},
                RequestContentLengthMismatchError,
            ),
            ({"method": "POST", "headers": {"content-length": "3"}}, RequestContentLengthMismatchError),
            ({"headers_timeout": -1}, InvalidArgumentError),
            ({"body_timeout": "soon"}, InvalidArgumentError),
            ({"timeout": float("nan")}, InvalidArgumentError),
            ({"no_such_option": 1}, InvalidArgumentError),
        ],
        ids=lambda value: None if isinstance(value, type) else "-".join(map(str, value))[:30],
    )
    async def test_wrong_options_reach_the_handler_at_once(
        self, target: Target, wrong: dict[str, Any], kind: type[Exception]
    ) -> None:
        """An argument error is told inside dispatch(), which returns False; nothing is sent."""
        token = target.token()
        options = {**target.options(f"/echo?token={token}"), **wrong}
        recorder = target.recorder()
        assert recorder.dispatch(target.dispatcher, options) is False
        assert recorder.synchronous
        assert recorder.names == ["response_error"]
        assert isinstance(recorder.error, kind)
        await recorder.wait()
        assert await target.count(token) == 0
        await target.usable()

    async def test_options_that_are_no_mapping(self, target: Target) -> None:
        """Told to the handler, not raised."""
        recorder = target.recorder()
        recorder.dispatch(target.dispatcher, 7)  # type: ignore[arg-type]  # that is what is tested
        assert recorder.synchronous
        assert isinstance(recorder.error, InvalidArgumentError)

    @pytest.mark.parametrize("missing", [START, RESPONSE, DATA, END, ERROR])
    async def test_handler_without_a_method_is_refused(self, target: Target, missing: str) -> None:
        """A handler that could not be told something is raised at, and nothing is sent."""
        token = target.token()
        kind = type("Incomplete", (DispatchHandler,), {missing: None})
        with pytest.raises(InvalidArgumentError, match=missing):
            target.dispatcher.dispatch(target.options(f"/echo?token={token}"), kind())
        with pytest.raises(InvalidArgumentError):
            target.dispatcher.dispatch(target.options(f"/echo?token={token}"), object())  # type: ignore[arg-type]
        await target.usable()
        assert await target.count(token) == 0

    # ---------------------------------------------------------------------------- callbacks that raise

    async def test_raising_in_request_start_sends_nothing(self, target: Target) -> None:
        """The exception is the error; the app never hears of the request."""
        token, error = target.token(), DeliberateError("start")
        recorder = await target.send(
            f"/echo?token={token}", target.recorder(on_request_start=_raising(error))
        ).wait()
        assert recorder.names == ["request_start", "response_error"]
        assert recorder.error is error
        await target.usable()
        assert await target.count(token) == 0

    @pytest.mark.parametrize("callback", [RESPONSE, DATA])
    async def test_raising_aborts_the_exchange(self, target: Target, callback: str) -> None:
        """The exception is the error, the app hears of the end, the dispatcher serves on."""
        token, error = target.token(), DeliberateError(callback)
        recorder = target.recorder(**{callback: _raising(error)})
        await target.send(f"/hang-body?token={token}", recorder).wait()
        assert recorder.error is error
        assert recorder.count(callback) == 1
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")
        await target.usable()

    async def test_raising_at_an_informational_response(self, target: Target) -> None:
        """As at the final one; what follows is told to nobody."""
        target.need("informational")
        error = DeliberateError("103")
        recorder = await target.send("/hints", target.recorder(on_response_start=_raising(error))).wait()
        assert recorder.names == ["request_start", "response_start", "response_error"]
        assert recorder.error is error
        await target.usable()

    async def test_raising_at_the_end(self, target: Target) -> None:
        """The exception is not lost: the handler is told, or the loop's exception handler."""
        error = DeliberateError("end")
        recorder = target.recorder(on_response_end=_raising(error))
        with _LoopComplaints() as complaints:
            await target.send("/empty", recorder).wait()
            await settle()
        told = [context["exception"] for context in complaints]
        assert (recorder.error is error) != (error in told)
        await target.usable()

    async def test_raising_in_the_error_callback(self, target: Target) -> None:
        """The loop's exception handler is told; nothing else happens."""
        error = DeliberateError("error")
        recorder = target.recorder(
            on_response_error=_raising(error), on_response_start=lambda controller, *_: controller.abort()
        )
        with _LoopComplaints() as complaints:
            await target.send("/empty", recorder).wait()
            await settle()
        assert error in [context["exception"] for context in complaints]
        assert recorder.count(ERROR) == 1
        await target.usable()

    # --------------------------------------------------------------------------------- pause, resume

    async def test_pause_at_the_head_holds_the_body_back(self, target: Target) -> None:
        """No data until resume(); then all of it, in order, and the end."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/300000", recorder)
        await recorder.reached(RESPONSE)
        assert recorder.controller.paused
        await settle(100)
        assert recorder.names == ["request_start", "response_start"]
        recorder.controller.resume()
        assert not recorder.controller.paused
        await recorder.wait()
        assert recorder.body == pattern(300_000)

    async def test_pause_of_a_small_response_holds_its_end_back(self, target: Target) -> None:
        """Even what arrived together with the head waits."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/10", recorder)
        await recorder.reached(RESPONSE)
        await settle(100)
        assert recorder.count(DATA) == 0
        recorder.controller.resume()
        assert (await recorder.wait()).body == pattern(10)
        await target.usable()

    async def test_pause_at_every_chunk(self, target: Target) -> None:
        """A body read pause by pause is the same body."""
        loop = asyncio.get_running_loop()

        def hold(controller: Any, _: bytes) -> None:
            controller.pause()
            loop.call_soon(loop.call_soon, controller.resume)

        recorder = await target.send("/stream/1000000", target.recorder(on_response_data=hold)).wait()
        assert recorder.error is None
        assert recorder.body == pattern(1_000_000)

    async def test_resume_delivers_later(self, target: Target) -> None:
        """resume() itself calls no callback: whoever calls it is not re-entered."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/10", recorder)
        await recorder.reached(RESPONSE)
        await settle(100)
        recorder.controller.resume()
        assert recorder.count(DATA) == 0
        await recorder.wait()

    async def test_pause_and_resume_are_idempotent(self, target: Target) -> None:
        """Repeated, in vain, and after the end: all harmless."""
        recorder = target.recorder(on_request_start=lambda controller, _: controller.resume())
        target.send("/bytes/1000", recorder)
        await recorder.reached(START)
        controller = recorder.controller
        for action in (controller.pause, controller.pause, controller.resume, controller.resume):
            action()
        await recorder.wait()
        assert recorder.body == pattern(1000)
        controller.pause()
        controller.resume()
        await recorder.wait()
        await target.usable()

    async def test_pause_bounds_what_is_held(self, target: Target) -> None:
        """While paused the app's send() stops being served: memory holds a window, not the body."""
        target.need("backpressure")
        token = target.token()
        recorder = target.recorder(keep_body=False, on_response_data=lambda controller, _: controller.pause())
        target.send(f"/stream/{_ENDLESS}?token={token}", recorder)
        await recorder.received(1)
        sent = await target.steady(lambda: target.count(token, "sent"))
        assert sent < _ENDLESS // 2
        assert recorder.count(DATA) == 1
        recorder.controller.abort()
        assert isinstance((await recorder.wait()).error, RequestAbortedError)
        await target.usable()

    async def test_pause_from_another_thread(self, target: Target) -> None:
        """From the next turn of the loop on there is no data; resume() from a thread goes on."""
        token = target.token()
        recorder = target.recorder(threaded=True)
        target.send(f"/gated?parts=3&token={token}", recorder)
        await target.open(token, "head", "0")
        await recorder.received(7)
        await asyncio.to_thread(recorder.controller.pause)
        await settle()
        await target.open(token, "1")
        await target.seen(f"{token}:sent:1")
        await settle(100)
        assert recorder.body == b"part-0;"
        await asyncio.to_thread(recorder.controller.resume)
        await recorder.received(14)
        await target.open(token, "2")
        assert (await recorder.wait()).body == b"part-0;part-1;part-2;"

    # ----------------------------------------------------------------------------------------- abort

    async def test_abort_in_request_start_sends_nothing(self, target: Target) -> None:
        """The app never hears of it; the reason is the very object that was given."""
        token, reason = target.token(), DeliberateError("never mind")
        recorder = target.recorder(on_request_start=lambda controller, _: controller.abort(reason))
        await target.send(f"/echo?token={token}", recorder).wait()
        assert recorder.names == ["request_start", "response_error"]
        assert recorder.error is reason
        await target.usable()
        assert await target.count(token) == 0

    async def test_abort_before_the_request_begins(self, target: Target) -> None:
        """Whoever has the controller from dispatch() on may abort at once."""
        target.need("on-dispatch")
        token = target.token()
        recorder = target.send(f"/echo?token={token}")
        assert recorder.controller is not None
        recorder.controller.abort()
        await recorder.wait()
        assert recorder.names == ["response_error"]
        assert isinstance(recorder.error, RequestAbortedError)
        await target.usable()
        assert await target.count(token) == 0

    async def test_abort_before_the_head(self, target: Target) -> None:
        """The exchange ends now; the app is told."""
        token = target.token()
        recorder = target.send(f"/hang?token={token}")
        await target.seen(f"{token}:started")
        recorder.controller.abort()
        assert recorder.controller.aborted
        await recorder.wait()
        assert recorder.names == ["request_start", "response_error"]
        assert isinstance(recorder.error, RequestAbortedError)
        assert recorder.error.code == "UND_ERR_ABORTED"
        assert recorder.controller.reason is recorder.error
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")
        await target.usable()

    @pytest.mark.parametrize("callback", [RESPONSE, DATA])
    async def test_abort_in_a_callback(self, target: Target, callback: str) -> None:
        """Nothing follows but the error."""
        token, reason = target.token(), DeliberateError(callback)
        recorder = target.recorder(**{callback: lambda controller, *_: controller.abort(reason)})
        await target.send(f"/hang-body?token={token}", recorder).wait()
        assert recorder.error is reason
        assert recorder.calls[-2].name == callback
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")
        await target.usable()

    async def test_abort_in_mid_body(self, target: Target) -> None:
        """Between two chunks."""
        token = target.token()
        recorder = target.send(f"/gated?parts=2&token={token}")
        await target.open(token, "head", "0")
        await recorder.received(7)
        recorder.controller.abort("enough")
        await recorder.wait()
        assert isinstance(recorder.error, RequestAbortedError)
        assert str(recorder.error) == "enough"
        assert recorder.body == b"part-0;"
        await target.open(token, "1")
        await target.usable()

    async def test_abort_while_paused(self, target: Target) -> None:
        """What was held back is dropped."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/100000", recorder)
        await recorder.reached(RESPONSE)
        await settle(100)
        recorder.controller.abort()
        await recorder.wait()
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.names == ["request_start", "response_start", "response_error"]
        await target.usable()

    async def test_abort_in_the_last_callback(self, target: Target) -> None:
        """At the end, and after it, an abort is harmless."""
        recorder = target.recorder(on_response_end=lambda controller, _: controller.abort())
        await target.send("/empty", recorder).wait()
        recorder.controller.abort(DeliberateError())
        await recorder.wait()
        assert recorder.names == ["request_start", "response_start", "response_end"]
        await target.usable()

    async def test_first_reason_wins(self, target: Target) -> None:
        """A second abort changes nothing."""
        first, second = DeliberateError("first"), DeliberateError("second")
        token = target.token()
        recorder = target.send(f"/hang?token={token}")
        await target.seen(f"{token}:started")
        recorder.controller.abort(first)
        recorder.controller.abort(second)
        await recorder.wait()
        assert recorder.error is first
        assert recorder.controller.reason is first

    async def test_abort_from_another_thread(self, target: Target) -> None:
        """The error comes on the loop's thread."""
        token, reason = target.token(), DeliberateError("thread")
        recorder = target.recorder(threaded=True)
        target.send(f"/hang-body?token={token}", recorder)
        await recorder.received(5)
        await asyncio.to_thread(recorder.controller.abort, reason)
        assert (await recorder.wait()).error is reason
        await target.usable()

    async def test_abort_of_one_among_many(self, target: Target) -> None:
        """The others are answered."""
        recorders = [
            target.recorder(on_request_start=lambda controller, _: controller.abort())
            if number % 3 == 1
            else target.recorder(on_response_start=lambda controller, *_: controller.abort())
            if number % 3 == 2
            else target.recorder()
            for number in range(30)
        ]
        for number, recorder in enumerate(recorders):
            target.send(f"/echo?n={number}", recorder)
        for number, recorder in enumerate(recorders):
            await recorder.wait()
            if number % 3:
                assert isinstance(recorder.error, RequestAbortedError)
            else:
                assert recorder.error is None
                assert json.loads(recorder.body)["query"] == f"n={number}"

    # -------------------------------------------------------------------------------- streamed bodies

    @_SOURCES
    async def test_source_is_pulled(self, target: Target, source_class: Any) -> None:
        """A body that the app does not read is not asked for; giving up closes it, once."""
        target.need("streamed-requests", "backpressure")
        token, chunk = target.token(), pattern(65536)
        source = source_class(endless=chunk)
        recorder = target.send(f"/late-read?token={token}", method="POST", body=source)
        await target.seen(f"{token}:started")
        pulled = await target.steady(lambda: source.pulled)
        assert pulled * len(chunk) < _ENDLESS
        recorder.controller.abort()
        await recorder.wait()
        await target.open(token, "read-now")
        await settle()
        assert source.closed == 1
        assert source.pulled <= pulled + 1
        await target.usable()

    @_SOURCES
    async def test_source_that_raises(self, target: Target, source_class: Any) -> None:
        """Its own exception is the error, wrapped by nothing, after it was closed."""
        target.need("streamed-requests")
        error = DeliberateError("source")
        source = source_class(b"some", b"thing", error=error)
        closed: list[int] = []
        recorder = target.recorder(on_response_error=lambda *_: closed.append(source.closed))
        await target.send("/echo", recorder, method="POST", body=source).wait()
        assert recorder.error is error
        assert closed == [1]
        assert source.closed == 1
        await target.usable()

    @_SOURCES
    async def test_source_that_raises_at_once(self, target: Target, source_class: Any) -> None:
        """Before there is a first chunk."""
        target.need("streamed-requests")
        error = DeliberateError("at once")
        source = source_class(error=error)
        recorder = await target.send("/echo", method="POST", body=source).wait()
        assert recorder.error is error
        assert source.closed == 1
        await target.usable()

    @_SOURCES
    async def test_source_of_wrong_chunks(self, target: Target, source_class: Any) -> None:
        """A chunk that is no bytes is an error of ours."""
        target.need("streamed-requests")
        source = source_class(b"good", 7)
        recorder = await target.send("/echo", method="POST", body=source).wait()
        assert isinstance(recorder.error, DodiciError | TypeError)
        assert source.closed == 1
        await target.usable()

    async def test_generators_are_closed(self, target: Target) -> None:
        """Their `finally` runs, on the loop, when the exchange is given up."""
        target.need("streamed-requests")
        token, closed = target.token(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"one"
                await asyncio.Event().wait()
            finally:
                closed.set()

        recorder = target.send(f"/echo?token={token}", method="POST", body=body())
        await target.seen(f"{token}:read")
        recorder.controller.abort()
        await recorder.wait()
        async with asyncio.timeout(_TIMEOUT):
            await closed.wait()
        await target.usable()

    @_SOURCES
    async def test_source_of_a_request_that_never_began(self, target: Target, source_class: Any) -> None:
        """Closed as well, and never asked."""
        target.need("streamed-requests")
        source = source_class(b"never")
        recorder = target.recorder(on_request_start=lambda controller, _: controller.abort())
        await target.send("/echo", recorder, method="POST", body=source).wait()
        await settle()
        assert source.closed == 1

    async def test_file_of_an_early_end_is_closed(self, target: Target) -> None:
        """Once. A file that was sent whole may be left open."""
        target.need("streamed-requests")
        file = FileSource(b"x" * 200_000)
        told = json.loads((await target.fetch("/echo", method="POST", body=file)).body)
        assert told["size"] == 200_000
        assert file.closings <= 1
        file, token = FileSource(bytes(_ENDLESS // 2)), target.token()
        recorder = target.send(f"/late-read?token={token}", method="POST", body=file)
        await target.seen(f"{token}:started")
        recorder.controller.abort()
        await recorder.wait()
        await target.open(token, "read-now")
        await settle()
        assert file.closings == 1

    @_SOURCES
    async def test_early_response_ends_the_upload(self, target: Target, source_class: Any) -> None:
        """A response that does not wait for the body is delivered, and the source closed."""
        target.need("streamed-requests")
        source = source_class(endless=pattern(65536))
        recorder = await target.send("/early", method="POST", body=source).wait()
        assert recorder.error is None
        assert (recorder.status_code, recorder.body) == (413, b"too large")
        await settle()
        assert source.closed == 1
        await target.usable()

    @_SOURCES
    @pytest.mark.parametrize("stated", [4, 6])
    async def test_length_mismatch_of_a_source(self, target: Target, source_class: Any, stated: int) -> None:
        """More or fewer bytes than stated fail the request, and the app never takes it for whole."""
        target.need("streamed-requests")
        source = source_class(b"ab", b"cde")
        recorder = target.send("/echo", method="POST", body=source, headers={"content-length": str(stated)})
        await recorder.wait()
        assert isinstance(recorder.error, RequestContentLengthMismatchError)
        assert recorder.error.code == "UND_ERR_REQ_CONTENT_LENGTH_MISMATCH"
        assert recorder.count(RESPONSE) == 0
        assert source.closed <= 1
        await target.usable()

    # --------------------------------------------------------------------------------------- timeouts

    async def test_headers_timeout(self, target: Target) -> None:
        """No head in time."""
        target.need("timeouts")
        recorder = await target.send("/hang", headers_timeout=0.05).wait()
        assert isinstance(recorder.error, HeadersTimeoutError)
        assert isinstance(recorder.error, TimeoutError)
        await target.usable()

    async def test_body_timeout(self, target: Target) -> None:
        """A body that stalls."""
        target.need("timeouts")
        recorder = await target.send("/hang-body", body_timeout=0.05).wait()
        assert isinstance(recorder.error, BodyTimeoutError)
        assert recorder.body == b"begun"
        await target.usable()

    async def test_body_timeout_does_not_run_while_paused(self, target: Target) -> None:
        """Who pauses may take their time."""
        target.need("timeouts")
        token = target.token()
        recorder = target.recorder(on_response_data=lambda controller, _: controller.pause())
        target.send(f"/gated?parts=2&token={token}", recorder, body_timeout=0.05)
        await target.open(token, "head", "0")
        await recorder.received(7)
        await asyncio.sleep(0.15)  # three times the timeout that must not fire
        assert not recorder.ended.done()
        await target.open(token, "1")
        recorder.controller.resume()
        await recorder.received(14)
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.error is None

    async def test_total_timeout(self, target: Target) -> None:
        """The deadline of the whole exchange, whatever it is doing."""
        for path in ("/hang", "/hang-body"):
            recorder = await target.send(path, timeout=0.05).wait()
            assert isinstance(recorder.error, RequestTimeoutError)
            assert isinstance(recorder.error, TimeoutError)
        await target.usable()

    # -------------------------------------------------------------------------------------- app errors

    async def test_app_that_raises(self, target: Target) -> None:
        """Before the head: a 500."""
        target.need("app-errors")
        assert (await target.fetch("/raise")).status_code == 500
        await target.usable()

    async def test_app_that_raises_late(self, target: Target) -> None:
        """After the head: an error, never an end."""
        target.need("app-errors")
        recorder = await target.send("/raise-late").wait()
        assert recorder.status_code == 200
        assert isinstance(recorder.error, DodiciError)
        assert recorder.trailers is None
        await target.usable()

    # --------------------------------------------------------------------------------------- lifecycle

    async def test_close_drains(self, target: Target) -> None:
        """close() refuses what is new and waits for what is there."""
        tokens = [target.token(), target.token()]
        recorders = [target.send(f"/gated?token={token}") for token in tokens]
        await recorders[0].reached(START)
        closing = asyncio.ensure_future(target.dispatcher.close())
        await settle()
        assert target.dispatcher.closed
        assert not closing.done()
        refused = target.send("/empty")
        assert refused.synchronous
        assert refused.accepted is False
        assert isinstance(refused.error, ClientClosedError)
        for token in tokens:
            await target.open(token, "head", "0")
        for recorder in recorders:
            assert (await recorder.wait()).body == b"part-0;"
            assert recorder.error is None
        async with asyncio.timeout(_TIMEOUT):
            await closing
            await target.dispatcher.close()
        assert target.dispatcher.destroyed

    async def test_context_manager_closes(self, target: Target) -> None:
        """`async with` is close()."""
        async with target.dispatcher as entered:
            assert entered is target.dispatcher
            await target.usable()
        assert target.dispatcher.closed

    @pytest.mark.parametrize("given", [None, DeliberateError("gone")], ids=["default", "error"])
    async def test_destroy_fails_everything(self, target: Target, given: BaseException | None) -> None:
        """What runs and what waits gets the error; what comes later is refused."""
        token = target.token()
        first = target.send(f"/hang-body?token={token}")
        await first.received(5)
        others = [target.send("/hang") for _ in range(3)]
        async with asyncio.timeout(_TIMEOUT):
            await target.dispatcher.destroy(given)
        for recorder in (first, *others):
            await recorder.wait()
            if given is None:
                assert isinstance(recorder.error, ClientDestroyedError)
            else:
                assert recorder.error is given
        assert target.dispatcher.destroyed
        assert target.dispatcher.closed
        refused = target.send("/empty")
        assert refused.synchronous
        assert isinstance(refused.error, ClientDestroyedError)
        async with asyncio.timeout(_TIMEOUT):
            await target.dispatcher.destroy()
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")

    async def test_destroy_while_paused(self, target: Target) -> None:
        """A paused exchange is told, too."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/100000", recorder)
        await recorder.reached(RESPONSE)
        await target.dispatcher.destroy()
        assert isinstance((await recorder.wait()).error, ClientDestroyedError)

    async def test_compose_keeps_the_contract(self, target: Target) -> None:
        """An interceptor that does nothing changes nothing."""
        seen: list[DispatchOptions] = []

        def interceptor(
            dispatch: Callable[[DispatchOptions, Any], bool],
        ) -> Callable[[DispatchOptions, Any], bool]:
            def watch(options: DispatchOptions, handler: Any) -> bool:
                seen.append(options)
                return dispatch(options, handler)

            return watch

        composed = target.dispatcher.compose(interceptor)
        assert isinstance(composed, ComposedDispatcher)
        recorder = target.recorder()
        recorder.dispatch(composed, target.options("/bytes/1000"))
        assert (await recorder.wait()).body == pattern(1000)
        assert seen[0].path == "/bytes/1000"
        await composed.close()
        assert target.dispatcher.closed

    # ------------------------------------------------------------------------------------------- verbs

    async def test_request(self, target: Target) -> None:
        """request() over it."""
        target.need("verbs")
        url = target.origin + "/echo"
        response = await target.dispatcher.request(url, method="POST", body=b"verb", query={"q": "1"})
        assert response.status_code == 200
        told = await response.json()
        assert (told["method"], told["query"], told["size"]) == ("POST", "q=1", 4)

    async def test_stream(self, target: Target) -> None:
        """stream() over it, to the end and left early."""
        target.need("verbs")
        digest = hashlib.sha256()
        async with target.dispatcher.stream("GET", f"{target.origin}/stream/{_BIG}") as response:
            async for chunk in response.body:
                digest.update(chunk)
        assert digest.hexdigest() == hashlib.sha256(pattern(_BIG)).hexdigest()
        async with target.dispatcher.stream("GET", f"{target.origin}/stream/{_BIG}") as response:
            async for _ in response.body:
                break
        await target.usable()

    async def test_cancelling_a_request_aborts_it(self, target: Target) -> None:
        """A cancelled task leaves nothing behind."""
        target.need("verbs")
        token = target.token()
        task = asyncio.ensure_future(target.dispatcher.request(f"{target.origin}/hang?token={token}"))
        await target.seen(f"{token}:started")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")
        await target.usable()

    async def test_asyncio_timeout_aborts_a_request(self, target: Target) -> None:
        """asyncio.timeout() works around a request and inside its body."""
        target.need("verbs")
        token = target.token()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await target.dispatcher.request(f"{target.origin}/hang?token={token}")
        response = await target.dispatcher.request(f"{target.origin}/hang-body")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await response.bytes()
        await target.usable()

    async def test_cancelling_in_the_callbacks_of_many(self, target: Target) -> None:
        """Tasks cancelled at various moments leave the dispatcher as it was."""
        target.need("verbs")
        tasks = [
            asyncio.ensure_future(target.dispatcher.request(f"{target.origin}/empty")) for _ in range(40)
        ]
        for number, task in enumerate(tasks):
            for _ in range(number % 5):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await target.usable()
