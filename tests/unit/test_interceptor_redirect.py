"""redirect(): where to, with what, and where not."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.interceptor_kit import (
    ORIGIN,
    ScriptedDispatcher,
    answer,
    data,
    end,
    fail,
    hang,
    head,
    play,
    start,
    virtual,
)

from dodici.core.errors import InvalidArgumentError, RequestTimeoutError, ResponseError
from dodici.core.headers import Headers
from dodici.core.options import DispatchOptions
from dodici.interceptors import decompress, redirect, retry
from dodici.testing import RecordingHandler, settle

OK = answer(200, body=b"ok")


def to(location, status=302, **headers):
    return answer(status, {"location": location, **headers}, b"go there")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@virtual
async def test_followed(status):
    recorder, base = await play(redirect(), to("/there?q=1#part", status), OK)
    assert (recorder.status_code, recorder.body) == (200, b"ok")
    assert [(options.origin, options.path) for options in base.requests] == [
        (ORIGIN, "/"),
        (ORIGIN, "/there?q=1"),
    ]
    assert recorder.names == [
        "request_start",
        "request_start",
        "response_start",
        "response_data",
        "response_end",
    ]
    assert base.outcomes == ["end", "end"]


@pytest.mark.parametrize("status", [200, 304, 305, 306, 404])
@virtual
async def test_not_followed(status):
    recorder, base = await play(redirect(), to("/there", status))
    assert (recorder.status_code, recorder.body) == (status, b"go there")
    assert len(base.requests) == 1


@virtual
async def test_without_one_location_it_is_delivered():
    for headers in ({}, [("location", "/a"), ("location", "/b")]):
        recorder, _ = await play(redirect(), answer(302, headers, b"where"))
        assert (recorder.status_code, recorder.body) == (302, b"where")
    recorder, _base = await play(redirect(), answer(302, [("location", "/a"), ("location", "/a")]), OK)
    assert recorder.body == b"ok"


@pytest.mark.parametrize(
    ("location", "origin", "path"),
    [
        ("there", ORIGIN, "/dir/there"),
        ("../up", ORIGIN, "/up"),
        ("?q=2", ORIGIN, "/dir/page?q=2"),
        ("//b.test/x", "http://b.test", "/x"),
        ("https://b.test:8443", "https://b.test:8443", "/"),
        ("http://user:pass@b.test/x", "http://b.test", "/x"),
        ("HTTP://B.test/x", "http://b.test", "/x"),
        ("http://[::1]:8080/x", "http://[::1]:8080", "/x"),
        ("/a b", ORIGIN, "/a%20b"),
        ("/a%20b%2Fc", ORIGIN, "/a%20b%2Fc"),
        ("/caffè".encode().decode("latin-1"), ORIGIN, "/caff%C3%A8"),
        ("/caff\xe8", ORIGIN, "/caff%E8"),
        (' /"quoted"', ORIGIN, "/%22quoted%22"),
    ],
)
@virtual
async def test_locations(location, origin, path):
    _, base = await play(redirect(), to(location), OK, options={"path": "/dir/page", "query": {"q": 1}})
    assert (base.requests[1].origin, base.requests[1].path) == (origin, path)


@pytest.mark.parametrize(
    "location",
    [
        "ftp://b.test/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http://[",
        "http://b.test:99999/",
        "http://a b/",
        "http://b.test:0/",
    ],
)
@virtual
async def test_locations_that_are_refused(location):
    recorder, base = await play(redirect(), to(location))
    assert isinstance(recorder.error, InvalidArgumentError)
    assert len(base.requests) == 1
    assert base.outcomes == ["end"]


@pytest.mark.parametrize(
    ("status", "method", "becomes", "keeps_body"),
    [
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (303, "POST", "GET", False),
        (303, "PUT", "GET", False),
        (303, "HEAD", "HEAD", False),
        (301, "PUT", "PUT", True),
        (302, "DELETE", "DELETE", True),
        (307, "POST", "POST", True),
        (308, "POST", "POST", True),
        (300, "POST", "POST", True),
    ],
)
@virtual
async def test_methods_and_bodies(status, method, becomes, keeps_body):
    body = None if method == "HEAD" else b"x"
    fields = {"content-type": "text/plain", "content-language": "it", "x": "y"}
    if body:
        fields["content-length"] = "1"
    _, base = await play(
        redirect(), to("/there", status), OK, options={"method": method, "body": body, "headers": fields}
    )
    second = base.requests[1]
    assert (second.method, second.body) == (becomes, b"x" if keeps_body else None)
    assert ("content-type" in second.fields, "content-language" in second.fields) == (keeps_body, keeps_body)
    assert second.fields["x"] == "y"
    if becomes == "GET":
        assert second.idempotent
        assert not second.expect_continue


@virtual
async def test_a_form_may_be_answered_by_its_own_url():
    recorder, base = await play(redirect(), to("/", 303), OK, options={"method": "POST", "body": b"x"})
    assert recorder.body == b"ok"
    assert [options.method for options in base.requests] == ["POST", "GET"]


@virtual
async def test_a_one_shot_body_gets_the_redirect():
    async def source():
        yield b"x"

    for status in (307, 308):
        recorder, base = await play(
            redirect(), to("/there", status), options={"method": "POST", "body": source()}
        )
        assert (recorder.status_code, recorder.headers["location"]) == (status, "/there")
        assert len(base.requests) == 1
    recorder, _ = await play(redirect(), to("/there", 303), OK, options={"method": "POST", "body": source()})
    assert recorder.body == b"ok"


SECRETS = {
    "authorization": "a",
    "cookie": "b",
    "proxy-authorization": "c",
    "x-token": "d",
    "x-once": "e",
    "x": "f",
}


@pytest.mark.parametrize(
    "location", ["http://b.test/", "https://a.test/", "http://a.test:8080/", "http://sub.a.test/"]
)
@virtual
async def test_credentials_stay_with_their_origin(location):
    _, base = await play(
        redirect(strip_headers_on_redirect=["X-Once"], strip_headers_on_cross_origin_redirect=["X-Token"]),
        to(location),
        OK,
        options={"headers": {**SECRETS, "host": "virtual"}, "server_name": "a.test"},
    )
    second = base.requests[1]
    assert dict(second.fields) == {"x": "f"}
    assert second.host is None
    assert second.server_name is None


@pytest.mark.parametrize("location", ["/there", "http://a.test/there", "http://A.test:80/there"])
@virtual
async def test_credentials_go_on_within_their_origin(location):
    _, base = await play(
        redirect(strip_headers_on_redirect=["X-Once"], strip_headers_on_cross_origin_redirect=["X-Token"]),
        to(location),
        OK,
        options={"headers": {**SECRETS, "host": "virtual"}, "server_name": "a.test"},
    )
    second = base.requests[1]
    assert dict(second.fields) == {key: value for key, value in SECRETS.items() if key != "x-once"}
    assert second.host is None
    assert second.server_name == "a.test"


@virtual
async def test_downgrade_to_http_is_another_origin():
    _, base = await play(
        redirect(),
        to("http://s.test/"),
        OK,
        options={"origin": "https://s.test", "headers": {"authorization": "a"}},
    )
    assert "authorization" not in base.requests[1].fields


@virtual
async def test_credentials_do_not_come_back():
    _, base = await play(
        redirect(),
        to("http://b.test/"),
        to("http://a.test/2"),
        OK,
        options={"headers": {"authorization": "a"}},
    )
    assert "authorization" not in base.requests[2].fields


@virtual
async def test_history():
    recorder, _ = await play(redirect(), to("/1"), to("http://b.test/2?x=1"), OK)
    history = recorder.contexts[0]["history"]
    assert history == ["http://a.test/", "http://a.test/1", "http://b.test/2?x=1"]
    assert all(context["history"] is history for context in recorder.contexts)


@virtual
async def test_the_limit():
    def further(options: DispatchOptions):
        return to(options.path + "x")

    recorder, base = await play(redirect(), further)
    assert recorder.status_code == 302
    assert len(base.requests) == 11
    recorder, base = await play(redirect(1), further)
    assert (len(base.requests), recorder.body) == (2, b"go there")
    recorder, base = await play(redirect(1, throw_on_max_redirect=True), further)
    assert isinstance(recorder.error, ResponseError)
    assert (recorder.error.status_code, recorder.error.headers["location"]) == (302, "/xx")
    # The limit is about redirects: another response at the limit is not an error.
    recorder, _ = await play(redirect(1, throw_on_max_redirect=True), to("/1"), OK)
    assert recorder.body == b"ok"


@pytest.mark.parametrize("off", [0, None])
@virtual
async def test_switched_off(off):
    recorder, _ = await play(redirect(off), to("/there"))
    assert recorder.status_code == 302


@virtual
async def test_loops():
    recorder, base = await play(redirect(), to("/1"), to("/"), OK)
    assert isinstance(recorder.error, InvalidArgumentError)
    assert "loop" in str(recorder.error)
    assert len(base.requests) == 2


@virtual
async def test_a_dispatcher_with_one_origin_says_so():
    for interceptors in ([redirect()], [retry(), decompress(), redirect()]):
        base = ScriptedDispatcher(to("http://b.test/"), OK, origin=ORIGIN)
        recorder, _ = await play(interceptors, base=base)
        assert isinstance(recorder.error, InvalidArgumentError)
        assert "Agent" in str(recorder.error)
        base = ScriptedDispatcher(to("http://a.test:80/x"), OK, origin=ORIGIN)
        recorder, _ = await play(interceptors, base=base)
        assert recorder.body == b"ok"


@virtual
async def test_a_request_without_an_origin():
    base = ScriptedDispatcher(to("other?x"), to("http://b.test/y"), OK)
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(redirect()), {"path": "/dir/page", "headers": {"cookie": "c"}})
    await recorder.wait()
    assert [(options.origin, options.path) for options in base.requests] == [
        (None, "/dir/page"),
        (None, "/dir/other?x"),
        ("http://b.test", "/y"),
    ]
    assert "cookie" in base.requests[1].fields
    assert "cookie" not in base.requests[2].fields


@virtual
async def test_absolute_form_stays_with_its_proxy():
    _recorder, base = await play(
        redirect(),
        to("/b"),
        to("http://c.test/c"),
        OK,
        options={"path": "http://b.test/a", "headers": {"authorization": "x"}},
    )
    assert [(options.origin, options.path) for options in base.requests] == [
        (ORIGIN, "http://b.test/a"),
        (ORIGIN, "http://b.test/b"),
        (ORIGIN, "http://c.test/c"),
    ]
    assert ["authorization" in options.fields for options in base.requests] == [True, True, False]


@virtual
async def test_connect_is_not_redirected():
    recorder, _ = await play(redirect(), to("/there"), options={"method": "CONNECT", "path": "b.test:443"})
    assert recorder.status_code == 302


@virtual
async def test_1xx_on_the_way():
    recorder, _ = await play(
        redirect(),
        [start(), head(103), head(302, {"location": "/x"}), end()],
        [start(), head(102), head(200), end()],
    )
    assert [status for status, _ in recorder.informational] == [103, 102]


@virtual
async def test_a_large_body_of_a_redirect_is_not_waited_for():
    recorder, base = await play(
        redirect(), [start(), head(302, {"location": "/x", "content-length": "1000000"}), hang()], OK
    )
    assert recorder.body == b"ok"
    assert base.players[0].exchange.aborted


@virtual
async def test_a_broken_body_of_a_redirect_does_not_matter():
    recorder, _ = await play(
        redirect(), [start(), head(302, {"location": "/x"}), data(b"x"), fail(LookupError())], OK
    )
    assert recorder.body == b"ok"


@virtual
async def test_the_total_time_is_shared():
    slow = [start(), head(302, {"location": "/x"}), data(b"x"), hang()]
    _, base = await play(redirect(), slow, OK, options={"timeout": 10})
    assert [options.timeout for options in base.requests] == [10, 9]
    recorder, base = await play(redirect(), slow, OK, options={"timeout": 0.5})
    assert isinstance(recorder.error, RequestTimeoutError)


@virtual
async def test_abort_on_the_way():
    base = ScriptedDispatcher([start(), head(302, {"location": "/x"}), data(b"x"), hang()], OK)
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(redirect()), {"origin": ORIGIN})
    await recorder.reached("on_request_start")
    await settle()
    recorder.controller.abort("enough")
    await recorder.wait()
    await asyncio.sleep(10)
    assert str(recorder.error) == "enough"
    assert len(base.requests) == 1


@virtual
async def test_pause_from_before_the_redirect_holds_the_last_body():
    base = ScriptedDispatcher(to("/x"), OK)
    recorder = RecordingHandler(on_request_start=lambda controller, _: controller.pause())
    recorder.dispatch(base.compose(redirect()), {"origin": ORIGIN})
    await recorder.reached("on_response_start")
    await settle()
    assert recorder.body == b""
    recorder.controller.resume()
    await recorder.wait()
    assert recorder.body == b"ok"


@virtual
async def test_the_second_request_fails():
    error = LookupError()
    recorder, _ = await play(redirect(), to("/x"), [fail(error)])
    assert recorder.error is error


def test_the_same_options_may_be_dispatched_again():
    options = DispatchOptions(origin=ORIGIN, headers={"x": "y"})

    @virtual
    async def twice():
        for _ in range(2):
            base = ScriptedDispatcher(to("http://b.test/"), OK)
            recorder = RecordingHandler()
            recorder.dispatch(base.compose(redirect()), options)
            await recorder.wait()
            assert base.requests[0] is options

    twice()
    assert options.headers == Headers({"x": "y"})


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_redirections": -1},
        {"max_redirections": "3"},
        {"throw_on_max_redirect": 1},
        {"strip_headers_on_redirect": "cookie"},
        {"strip_headers_on_redirect": [1]},
        {"strip_headers_on_cross_origin_redirect": ["a b"]},
        {"strip_headers_on_cross_origin_redirect": 1},
    ],
    ids=str,
)
def test_invalid_arguments(arguments):
    with pytest.raises(InvalidArgumentError):
        redirect(**arguments)
