"""retry(): what is repeated, when, and how a download goes on."""

from __future__ import annotations

import asyncio
import errno

import pytest
from tests.unit.interceptor_kit import (
    ORIGIN,
    ScriptedDispatcher,
    answer,
    data,
    end,
    fail,
    gate,
    hang,
    head,
    play,
    start,
    upgrade,
    virtual,
)

from dodici.core.errors import (
    BodyTimeoutError,
    ClientClosedError,
    ConnectError,
    ConnectionRefused,
    ConnectTimeoutError,
    InvalidArgumentError,
    InvalidReturnValueError,
    RequestAbortedError,
    RequestRetryError,
    RequestTimeoutError,
    SocketError,
    TLSError,
)
from dodici.core.headers import Headers
from dodici.interceptors import RetryPolicy, RetryState, response_error, retry
from dodici.interceptors._retry_policy import parse_retry_after
from dodici.testing import RecordingHandler, settle

OK = answer(200, body=b"ok")
exact = {"jitter": 0}


# ---------------------------------------------------------------------------------------- refused responses


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@virtual
async def test_a_refused_response_is_not_shown(status):
    recorder, base = await play(retry(**exact), answer(status, body=b"no"), OK)
    assert recorder.names == [
        "request_start",
        "request_start",
        "response_start",
        "response_data",
        "response_end",
    ]
    assert (recorder.status_code, recorder.body) == (200, b"ok")
    assert base.waits == [0.5]
    # Its body was read, so the connection can be used again.
    assert base.outcomes == ["end", "end"]


@virtual
async def test_waits_grow_and_are_capped():
    recorder, base = await play(
        retry(max_retries=7, min_timeout=1, max_timeout=10, timeout_factor=3, **exact), answer(500)
    )
    assert base.waits == [1, 3, 9, 10, 10, 10, 10]
    error = recorder.error
    assert isinstance(error, RequestRetryError)
    assert (error.code, error.status_code, error.count, error.attempt) == ("UND_ERR_REQ_RETRY", 500, 8, 8)
    assert isinstance(error.headers, Headers)


@virtual
async def test_jitter_only_stretches():
    waits = set()
    for _ in range(20):
        _, base = await play(retry(max_retries=1, min_timeout=10, jitter=0.5), answer(500), OK)
        waits |= set(base.waits)
    assert len(waits) > 1
    assert all(10 <= wait <= 15 for wait in waits)


@virtual
async def test_exhausted_without_throwing_delivers_the_last_response():
    recorder, base = await play(
        retry(max_retries=2, throw_on_error=False, **exact),
        answer(503, {"n": "1"}, b"x"),
        answer(503, {"n": "2"}, b"y"),
    )
    assert (recorder.status_code, recorder.headers["n"], recorder.body) == (503, "2", b"y")
    assert len(base.requests) == 3


@virtual
async def test_no_retries_at_all():
    recorder, base = await play(retry(max_retries=0), answer(503))
    assert isinstance(recorder.error, RequestRetryError)
    assert len(base.requests) == 1


@pytest.mark.parametrize("status", [200, 204, 304, 400, 404, 501])
@virtual
async def test_other_statuses_pass(status):
    recorder, base = await play(retry(), answer(status))
    assert recorder.status_code == status
    assert len(base.requests) == 1


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@virtual
async def test_a_method_that_may_not_be_repeated_gets_its_response(method):
    recorder, base = await play(retry(), answer(503, body=b"why"), options={"method": method, "body": b"x"})
    assert (recorder.status_code, recorder.body) == (503, b"why")
    assert len(base.requests) == 1


@virtual
async def test_a_body_that_can_be_sent_once_gets_its_response():
    async def source():
        yield b"x"

    recorder, base = await play(retry(), answer(503), options={"method": "PUT", "body": source()})
    assert recorder.status_code == 503
    assert len(base.requests) == 1


@pytest.mark.parametrize("body", [b"x", "x", [b"x", b"y"], bytearray(b"x")])
@virtual
async def test_a_replayable_body_is_sent_again(body):
    recorder, base = await play(retry(**exact), answer(503), OK, options={"method": "PUT", "body": body})
    assert recorder.status_code == 200
    assert base.requests[1].body is body


@virtual
async def test_options_choose_methods_statuses_and_errors():
    policy = RetryPolicy(methods=["POST"], status_codes=[418], error_codes=["UND_ERR_BODY_TIMEOUT"], jitter=0)
    recorder, _ = await play(retry(policy), answer(418), OK, options={"method": "POST"})
    assert recorder.status_code == 200
    recorder, _ = await play(retry(policy), answer(503), OK, options={"method": "POST"})
    assert recorder.status_code == 503
    recorder, _ = await play(retry(policy), answer(418), OK)
    assert recorder.status_code == 418
    recorder, _ = await play(
        retry(policy), [start(), fail(BodyTimeoutError())], OK, options={"method": "POST"}
    )
    assert recorder.status_code == 200
    recorder, _ = await play(retry(policy), [start(), fail(SocketError())], OK, options={"method": "POST"})
    assert isinstance(recorder.error, SocketError)


@virtual
async def test_the_context_tells_the_attempt():
    recorder, _ = await play(retry(**exact), answer(503), answer(503), OK)
    states = [context["retry"] for context in recorder.contexts]
    assert [(state.attempt, state.counter) for state in states] == [(1, 0), (2, 1), (3, 2)]
    assert states[0].options.origin == ORIGIN


@virtual
async def test_1xx_of_every_attempt_passes():
    recorder, _ = await play(
        retry(**exact), [start(), head(103), head(503), end()], [start(), head(102), head(200), end()]
    )
    assert [status for status, _ in recorder.informational] == [103, 102]


@virtual
async def test_upgrade_after_a_refusal():
    recorder, _ = await play(
        retry(**exact), answer(503), [start(), upgrade("s")], options={"upgrade": "websocket"}
    )
    assert recorder.socket == "s"


@virtual
async def test_a_large_refused_body_is_aborted():
    recorder, base = await play(retry(**exact), [start(), head(503, {"content-length": "70000"}), hang()], OK)
    assert recorder.body == b"ok"
    assert base.players[0].exchange.aborted
    assert base.waits == [0.5]


@virtual
async def test_a_refused_body_without_end_is_aborted():
    endless = [start(), head(503), *[data(bytes(10_000))] * 100]
    recorder, base = await play(retry(**exact), endless, OK)
    assert recorder.body == b"ok"
    assert base.players[0].exchange.bytes_read == 70_000


@virtual
async def test_a_refused_body_that_stalls_is_given_a_second():
    recorder, base = await play(retry(**exact), [start(), head(503), data(b"x"), hang()], OK)
    assert recorder.body == b"ok"
    assert base.waits == [1.5]
    assert base.players[0].exchange.aborted


@virtual
async def test_a_refused_body_that_breaks_does_not_matter():
    recorder, base = await play(retry(**exact), [start(), head(503), data(b"x"), fail(SocketError())], OK)
    assert recorder.body == b"ok"
    assert len(base.requests) == 2


@virtual
async def test_a_refused_body_is_read_while_the_handler_pauses():
    base = ScriptedDispatcher(answer(503, body=b"no"), OK)
    recorder = RecordingHandler(on_request_start=lambda controller, _: controller.pause())
    recorder.dispatch(base.compose(retry(**exact)), {"origin": ORIGIN})
    await asyncio.sleep(1)
    await recorder.reached("on_response_start")
    assert base.outcomes[0] == "end"
    # The pause outlived the exchange in which it was asked for.
    await settle()
    assert recorder.body == b""
    recorder.controller.resume()
    await recorder.wait()
    assert recorder.body == b"ok"


@virtual
async def test_head_with_a_length_is_drained():
    _recorder, base = await play(
        retry(**exact), answer(503, {"content-length": "1000000"}), OK, options={"method": "HEAD"}
    )
    assert base.outcomes == ["end", "end"]


# ------------------------------------------------------------------------------------------------ Retry-After


@pytest.mark.parametrize(
    ("fields", "wait"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "100"}, 30),
        ({"retry-after": "99999999999999999999"}, 30),
        ({"retry-after": "soon"}, 0.5),
        ({"retry-after": "-1"}, 0.5),
        ({"retry-after": ""}, 0.5),
        ({"date": "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": "Sun, 06 Nov 1994 08:49:39 GMT"}, 2),
        ({"date": "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": "Sunday, 06-Nov-94 08:49:39 GMT"}, 2),
        ({"date": "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": "Sun Nov  6 08:49:39 1994"}, 2),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0),
    ],
)
@virtual
async def test_retry_after(fields, wait):
    _, base = await play(retry(**exact), answer(429, fields), OK)
    assert base.waits == [wait]


@virtual
async def test_retry_after_is_never_undercut_by_jitter():
    _, base = await play(retry(jitter=1), answer(429, {"retry-after": "3"}), OK)
    assert 3 <= base.waits[0] <= 6


@virtual
async def test_retry_after_can_be_ignored():
    _, base = await play(retry(retry_after=False, **exact), answer(429, {"retry-after": "3"}), OK)
    assert base.waits == [0.5]


def test_parse_retry_after_uses_the_clock_without_a_date(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 784111777.0)
    assert parse_retry_after(Headers({"retry-after": "Sun, 06 Nov 1994 08:49:40 GMT"})) == 3
    assert parse_retry_after(Headers({"retry-after": "Sun, 06 Nov 99999 08:49:40 GMT"})) is None
    assert parse_retry_after(Headers()) is None


# ------------------------------------------------------------------------------------------------ errors


def os_error(number):
    error = SocketError("connection lost")
    error.errno = number
    return error


@pytest.mark.parametrize(
    "error",
    [
        SocketError("other side closed"),
        ConnectionRefused("refused"),
        ConnectTimeoutError("late"),
        ConnectError("no route", code="EHOSTUNREACH"),
        os_error(errno.ECONNRESET),
    ],
    ids=repr,
)
@virtual
async def test_errors_of_the_network_are_retried(error):
    recorder, base = await play(retry(**exact), [start(), fail(error)], OK)
    assert recorder.body == b"ok"
    assert base.waits == [0.5]


@virtual
async def test_errno_names_can_be_listed():
    policy = {"error_codes": ["ECONNRESET"], **exact}
    recorder, _ = await play(retry(**policy), [start(), fail(os_error(errno.ECONNRESET))], OK)
    assert recorder.body == b"ok"
    recorder, _ = await play(retry(**policy), [start(), fail(os_error(errno.EPIPE))], OK)
    assert recorder.error.errno == errno.EPIPE


@virtual
async def test_a_failure_before_the_start_is_retried():
    recorder, base = await play(retry(**exact), [fail(ConnectionRefused("refused"))], OK)
    assert recorder.starts == 1
    assert len(base.requests) == 2


@virtual
async def test_a_post_is_retried_if_it_was_not_processed():
    recorder, base = await play(
        retry(**exact), [fail(ConnectionRefused("refused"))], OK, options={"method": "POST", "body": b"x"}
    )
    assert recorder.body == b"ok"
    assert len(base.requests) == 2


@virtual
async def test_a_post_is_not_retried_if_it_may_have_been():
    recorder, base = await play(
        retry(), [start(), fail(SocketError("other side closed"))], options={"method": "POST", "body": b"x"}
    )
    assert isinstance(recorder.error, SocketError)
    assert len(base.requests) == 1


@pytest.mark.parametrize(
    "error", [ClientClosedError(), TLSError("bad certificate"), InvalidArgumentError("bad"), LookupError()]
)
@virtual
async def test_hopeless_errors_are_not_retried(error):
    recorder, base = await play(retry(), [start(), fail(error)])
    assert recorder.error is error
    assert len(base.requests) == 1


@virtual
async def test_exhausted_errors_are_reported_themselves():
    error = ConnectionRefused("refused")
    recorder, base = await play(retry(max_retries=2), [fail(error)])
    assert recorder.error is error
    assert error.attempt == 3
    assert len(base.requests) == 3


@virtual
async def test_a_one_shot_body_is_not_retried_after_an_error():
    recorder, base = await play(
        retry(), [fail(ConnectionRefused("refused"))], options={"method": "PUT", "body": iter([b"x"])}
    )
    assert isinstance(recorder.error, ConnectionRefused)
    assert len(base.requests) == 1


@virtual
async def test_response_errors_from_within_are_refused_responses():
    recorder, base = await play(
        [response_error(), retry(**exact)], answer(503, {"retry-after": "2"}, b"no"), answer(404)
    )
    assert recorder.error.status_code == 404
    assert base.waits == [2]


@virtual
async def test_a_dispatcher_that_raises_on_the_second_attempt():
    base = ScriptedDispatcher(answer(503), OK)

    def second_raises(dispatch):
        def wrapped(options, handler):
            if base.requests:
                raise LookupError("gone")
            return dispatch(options, handler)

        return wrapped

    recorder, _ = await play([second_raises, retry(**exact)], base=base)
    assert isinstance(recorder.error, LookupError)


# ------------------------------------------------------------------------------------------------ abort


@virtual
async def test_abort_during_the_wait_ends_it_at_once():
    base = ScriptedDispatcher(answer(503), OK)
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(retry(min_timeout=10)), {"origin": ORIGIN})
    await recorder.reached("on_request_start")
    await asyncio.sleep(3)
    reason = ValueError("enough")
    recorder.controller.abort(reason)
    assert recorder.error is reason
    assert asyncio.get_running_loop().time() < 4
    await asyncio.sleep(60)
    assert len(base.requests) == 1
    recorder.check()


async def test_abort_during_the_wait_from_another_thread():
    base = ScriptedDispatcher(answer(503), OK)
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(retry(min_timeout=20)), {"origin": ORIGIN})
    await recorder.reached("on_request_start")
    await settle()
    await asyncio.to_thread(recorder.controller.abort)
    await recorder.wait(5)
    assert isinstance(recorder.error, RequestAbortedError)


@virtual
async def test_abort_while_a_refused_body_is_drained():
    base = ScriptedDispatcher([start(), head(503), data(b"x"), hang()], OK)
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(retry()), {"origin": ORIGIN})
    await recorder.reached("on_request_start")
    await settle()
    recorder.controller.abort("enough")
    await recorder.wait()
    assert str(recorder.error) == "enough"
    assert base.players[0].exchange.aborted
    await asyncio.sleep(60)
    assert len(base.requests) == 1


@pytest.mark.parametrize("early", [True, False])
@virtual
async def test_abort_while_the_second_attempt_is_queued(early):
    go = asyncio.Event()
    base = ScriptedDispatcher(answer(503), [gate(go), *OK], early=early)
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(retry()), {"origin": ORIGIN})
    await asyncio.sleep(2)
    assert len(base.requests) == 2
    recorder.controller.abort("enough")
    assert str(recorder.error) == "enough"
    go.set()
    await asyncio.sleep(1)
    recorder.check()
    assert recorder.starts == 1
    assert base.outcomes[1] is recorder.error
    await asyncio.gather(*base.tasks)


# ------------------------------------------------------------------------------------------------ deadline


@virtual
async def test_the_total_time_is_shared_by_all_attempts():
    _, base = await play(retry(min_timeout=1, max_retries=3, **exact), answer(503), options={"timeout": 60})
    assert [round(options.timeout, 3) for options in base.requests] == [60, 59, 57, 53]


@virtual
async def test_a_retry_that_there_is_no_time_for_is_not_waited_for():
    recorder, _base = await play(
        retry(**exact), answer(503, {"retry-after": "20"}), OK, options={"timeout": 10}
    )
    assert isinstance(recorder.error, RequestRetryError)
    assert asyncio.get_running_loop().time() < 1
    recorder, _ = await play(
        retry(throw_on_error=False), answer(503, {"retry-after": "20"}), OK, options={"timeout": 10}
    )
    assert recorder.status_code == 503


@virtual
async def test_a_timeout_tells_the_whole_time():
    def times_out(options):
        return [start(), fail(RequestTimeoutError(f"did not end within {options.timeout} s"))]

    recorder, _ = await play(retry(min_timeout=2), answer(503), times_out, options={"timeout": 7.5})
    assert isinstance(recorder.error, RequestTimeoutError)
    assert "7.5 s" in str(recorder.error)


@virtual
async def test_the_time_runs_out_while_draining():
    recorder, base = await play(
        retry(min_timeout=0), [start(), head(503), data(b"x"), hang()], OK, options={"timeout": 0.6}
    )
    assert isinstance(recorder.error, RequestTimeoutError)
    assert len(base.requests) == 1


# ------------------------------------------------------------------------------------------------ the hook


@virtual
async def test_the_hook_decides():
    asked = []

    def hook(error, state):
        asked.append((error, state))
        return {1: 7.5, 2: True, 3: None}[state.attempt]

    recorder, base = await play(retry(retry=hook, **exact), answer(503, {"n": "1"}))
    assert isinstance(recorder.error, RequestRetryError)
    assert base.waits == [7.5, 1]
    error, state = asked[0]
    assert isinstance(error, RequestRetryError)
    assert isinstance(state, RetryState)
    assert (state.status_code, state.headers["n"], state.delay, state.counter) == (503, "1", 0.5, 0)


@virtual
async def test_the_hook_may_go_beyond_the_policy():
    seen = []

    def hook(error, state):
        seen.append(state.delay)
        return state.counter == 0

    recorder, base = await play(retry(retry=hook, **exact), answer(404), answer(404, {"n": "2"}))
    assert (recorder.status_code, recorder.headers["n"]) == (404, "2")
    assert seen == [None, None]
    assert base.waits == [0.5]
    recorder, base = await play(
        retry(retry=hook, **exact), [start(), fail(BodyTimeoutError())], OK, options={"method": "POST"}
    )
    assert recorder.body == b"ok"


@virtual
async def test_the_hook_may_stop_the_policy():
    recorder, base = await play(retry(retry=lambda error, state: False), [start(), fail(SocketError())])
    assert isinstance(recorder.error, SocketError)
    assert len(base.requests) == 1


@pytest.mark.parametrize("answered", ["soon", -1, float("inf"), float("nan"), object()])
@virtual
async def test_the_hook_returns_nonsense(answered):
    for script in (answer(503, body=b"x"), [start(), fail(SocketError())]):
        recorder, _ = await play(retry(retry=lambda error, state: answered), script)
        assert isinstance(recorder.error, InvalidReturnValueError)


@virtual
async def test_the_hook_raises():
    mistake = LookupError("mine")

    def hook(error, state):
        raise mistake

    for script in (answer(503, body=b"x"), [start(), fail(SocketError())]):
        recorder, _ = await play(retry(retry=hook), script)
        assert recorder.error is mistake


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
        {"min_timeout": -1},
        {"max_timeout": "1"},
        {"timeout_factor": 0.5},
        {"jitter": 2},
        {"jitter": -0.1},
        {"retry_after": 1},
        {"throw_on_error": None},
        {"methods": "GET"},
        {"methods": [1]},
        {"status_codes": 503},
        {"status_codes": ["503"]},
        {"error_codes": [503]},
        {"retry": "yes"},
        {"max_retry": 1},
    ],
    ids=str,
)
def test_invalid_options(options):
    with pytest.raises(InvalidArgumentError):
        retry(**options)


def test_a_policy_or_options():
    with pytest.raises(InvalidArgumentError):
        retry(RetryPolicy(), max_retries=1)
    with pytest.raises(InvalidArgumentError):
        retry({"max_retries": 1})


def test_backoff_does_not_overflow():
    assert RetryPolicy(timeout_factor=1e9, jitter=0).backoff(10_000) == 30


# ------------------------------------------------------------------------------------------------ resume

CUT = SocketError("other side closed")
FULL = {"content-length": "10", "etag": '"v1"'}


def cut_after(*chunks, status=200, headers=FULL):
    return [start(), head(status, headers), *map(data, chunks), fail(SocketError("other side closed"))]


def rest(first, last=9, size=10, body=None, **more):
    headers = {"content-range": f"bytes {first}-{last}/{size}", "etag": '"v1"', **more}
    return answer(206, headers, b"0123456789"[first : last + 1] if body is None else body)


@virtual
async def test_a_download_goes_on():
    recorder, base = await play(
        retry(**exact),
        cut_after(b"01", b"23"),
        cut_after(
            b"45",
            status=206,
            headers={"content-range": "bytes 4-9/10", "content-length": "6", "etag": '"v1"'},
        ),
        rest(6),
    )
    assert recorder.names == ["request_start", "response_start", "response_data", "response_end"]
    assert recorder.body == b"0123456789"
    assert (recorder.status_code, recorder.headers["content-length"]) == (200, "10")
    assert [options.fields.get("range") for options in base.requests] == [None, "bytes=4-9", "bytes=6-9"]
    assert [options.fields.get("if-match") for options in base.requests] == [None, '"v1"', '"v1"']
    assert base.waits == [0.5, 1]


@virtual
async def test_a_refusal_on_the_way_is_retried():
    recorder, base = await play(
        retry(**exact), cut_after(b"0123"), answer(503, {"retry-after": "3"}, b"no"), rest(4)
    )
    assert recorder.body == b"0123456789"
    assert base.waits == [0.5, 3]


@virtual
async def test_a_refusal_on_the_way_that_stays_is_an_error():
    recorder, _ = await play(
        retry(max_retries=2, throw_on_error=False), cut_after(b"0123"), answer(503, body=b"no")
    )
    assert isinstance(recorder.error, RequestRetryError)
    assert (recorder.error.status_code, recorder.error.count, recorder.body) == (503, 3, b"0123")


@virtual
async def test_an_unknown_length_is_asked_to_the_end():
    recorder, base = await play(
        retry(**exact), cut_after(b"0123", headers={"etag": '"v1"'}), rest(4, **{"content-length": "6"})
    )
    assert recorder.body == b"0123456789"
    assert base.requests[1].fields["range"] == "bytes=4-"


@virtual
async def test_weak_etags_are_not_sent():
    weak = {"content-length": "10", "etag": 'W/"v1"'}
    recorder, base = await play(retry(**exact), cut_after(b"0123", headers=weak), rest(4, etag='W/"v1"'))
    assert recorder.body == b"0123456789"
    assert "if-match" not in base.requests[1].fields


@virtual
async def test_a_range_of_the_caller_goes_on_within_it():
    part = {"content-range": "bytes 2-7/10", "content-length": "6"}
    recorder, base = await play(
        retry(**exact),
        cut_after(b"23", status=206, headers=part),
        answer(206, {"content-range": "bytes 4-7/10"}, b"4567"),
        options={"headers": {"range": "bytes=2-7", "if-range": '"v1"', "x": "y"}},
    )
    assert (recorder.status_code, recorder.body) == (206, b"234567")
    assert dict(base.requests[1].fields) == {"range": "bytes=4-7", "x": "y"}


@virtual
async def test_before_the_first_byte_the_same_request_is_made():
    recorder, base = await play(retry(**exact), cut_after(), answer(200, FULL, b"0123456789"))
    assert recorder.body == b"0123456789"
    assert "range" not in base.requests[1].fields
    assert base.requests[1].fields["if-match"] == '"v1"'


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (answer(200, FULL, b"0123456789"), "does not support the range header"),
        (answer(412), "ETag mismatch"),
        (answer(416), "status 416"),
        (answer(404), "status 404"),
        (answer(206, FULL, b"456789"), "Content-Range mismatch"),
        (
            answer(206, {"etag": '"v1"', "content-range": "bytes 4-99999999999999999999999/*"}),
            "Content-Range mismatch",
        ),
        (rest(4, etag='"v2"'), "ETag mismatch"),
        (answer(206, {"content-range": "bytes 4-9/10"}), "ETag mismatch"),
        (rest(3), "Content-Range mismatch"),
        (rest(5), "Content-Range mismatch"),
        (rest(4, last=8), "Content-Range mismatch"),
        (rest(4, size=11), "Content-Range mismatch"),
        (rest(4, **{"content-length": "5"}), "Content-Length mismatch"),
        (rest(4, **{"content-encoding": "gzip"}), "Content-Encoding mismatch"),
    ],
)
@virtual
async def test_what_is_not_the_rest_is_not_appended(second, text):
    recorder, base = await play(retry(**exact), cut_after(b"0123"), second)
    assert isinstance(recorder.error, RequestRetryError)
    assert text in str(recorder.error)
    assert recorder.body == b"0123"
    assert recorder.error.status_code == second[1][1]
    assert recorder.error.bytes_read == 4
    assert len(base.requests) == 2


@virtual
async def test_another_date_is_another_thing():
    dated = {"content-length": "10", "last-modified": "Sun, 06 Nov 1994 08:49:37 GMT"}
    later = {"content-range": "bytes 4-9/10", "last-modified": "Sun, 06 Nov 1994 08:49:38 GMT"}
    recorder, _ = await play(retry(), cut_after(b"0123", headers=dated), answer(206, later))
    assert "Last-Modified mismatch" in str(recorder.error)


@virtual
async def test_before_the_first_byte_another_thing_is_refused():
    recorder, _ = await play(retry(), cut_after(), answer(200, {"content-length": "11", "etag": '"v1"'}))
    assert "mismatch" in str(recorder.error)


@pytest.mark.parametrize(
    ("options", "script"),
    [
        ({"method": "PUT"}, cut_after(b"01")),
        ({}, cut_after(b"01", headers={})),
        ({}, cut_after(b"01", headers={**FULL, "accept-ranges": "none"})),
        ({}, cut_after(b"01", status=404)),
        ({}, cut_after(b"01", status=206, headers={"content-type": "multipart/byteranges; boundary=x"})),
        ({}, cut_after(b"0123456789")),
    ],
)
@virtual
async def test_what_cannot_go_on_fails(options, script):
    recorder, base = await play(retry(), script, options=options)
    assert recorder.error.code == "UND_ERR_SOCKET"
    assert len(base.requests) == 1


@virtual
async def test_an_error_that_is_not_retried_ends_the_download():
    recorder, base = await play(retry(), [start(), head(200, FULL), data(b"0"), fail(LookupError())])
    assert isinstance(recorder.error, LookupError)
    assert len(base.requests) == 1


@virtual
async def test_a_pause_survives_the_resumption():
    base = ScriptedDispatcher(cut_after(b"0123"), rest(4))
    recorder = RecordingHandler(on_response_data=lambda controller, _: controller.pause())
    recorder.dispatch(base.compose(retry(**exact)), {"origin": ORIGIN})
    # The error of the first exchange comes in spite of the pause, and the second one is paused from its start.
    await asyncio.sleep(5)
    assert len(base.requests) == 2
    assert recorder.body == b"0123"
    recorder.controller.resume()
    await recorder.received(10)
    recorder.controller.resume()
    await recorder.wait()


@virtual
async def test_abort_between_two_parts():
    base = ScriptedDispatcher(cut_after(b"0123"), rest(4))
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(retry(**exact)), {"origin": ORIGIN})
    await recorder.received(4)
    await settle()
    recorder.controller.abort()
    await recorder.wait()
    await asyncio.sleep(5)
    assert isinstance(recorder.error, RequestAbortedError)
    assert len(base.requests) == 1


@virtual
async def test_1xx_of_a_later_part_is_not_shown():
    later = rest(4)
    recorder, _ = await play(retry(**exact), cut_after(b"0123"), [later[0], head(103), *later[1:]])
    assert recorder.informational == []
    assert recorder.body == b"0123456789"
