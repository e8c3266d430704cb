"""`-v`: the exchange, as it went over the wire."""

from __future__ import annotations

from tests.cli.cli_kit import scripted

from dodici.core import diagnostics


def _marked(err: str, mark: str) -> list[str]:
    assert all(line[:2] in {"> ", "< ", "* "} for line in err.splitlines() if not line.startswith("dodici:"))
    return [line[2:] for line in err.splitlines() if line.startswith(f"{mark} ")]


def test_exchange(run, server):
    ran = run("-v", "-d", "a=1", "-H", "X-Mine: yes", f"{server.origin}/status/201?q=1")
    port = server.server_address[1]
    assert ran.out == b"this is 201"
    sent = _marked(ran.err, ">")
    assert sent[0] == "POST /status/201?q=1 HTTP/1.1"
    assert sorted(sent[1:-1]) == sorted(f"{name}: {value}" for name, value in server.last.headers)
    assert "X-Mine: yes" in sent
    assert sent[-1] == ""
    received = _marked(ran.err, "<")
    assert received[0] == "HTTP/1.1 201 Created"
    assert "Content-Length: 11" in received
    assert received[-1] == ""
    told = _marked(ran.err, "*")
    assert told[0] == f"connecting to 127.0.0.1 port {port}"
    assert told[1].startswith(f"connected to 127.0.0.1 (127.0.0.1) port {port} in ")
    assert told[2] == "3 bytes of body sent"
    assert told[3].startswith("11 bytes of body received; connected ")
    assert "first byte" in told[3]
    assert told[3].endswith(" ms")


def test_redirects_and_reuse(run, server):
    ran = run("-vL", f"{server.origin}/redirect/1")
    assert [line for line in _marked(ran.err, "<") if line.startswith("HTTP")] == [
        "HTTP/1.1 302 Found",
        "HTTP/1.1 200 OK",
    ]
    assert [line.split()[1] for line in _marked(ran.err, ">") if line.endswith("HTTP/1.1")] == [
        "/redirect/1",
        "/",
    ]
    assert "the connection is used again" in _marked(ran.err, "*")


def test_heads_are_as_received(run, server):
    assert "Content-Encoding: gzip" in _marked(run("-v", "--compressed", f"{server.origin}/gzip").err, "<")


def test_informational_heads_and_trailers(run):
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 12\r\n\r\n"
    )
    with scripted(answer) as origin:
        ran = run("-v", origin)
    assert ran.out == b"hi"
    received = _marked(ran.err, "<")
    assert received[:2] == ["HTTP/1.1 103 Early Hints", "link: </a>"]
    assert received[-1] == "x-sum: 12"


def test_failure_is_told_at_the_end(run):
    ran = run("-v", "http://127.0.0.1:1/")
    lines = ran.err.splitlines()
    assert lines[:2] == ["* connecting to 127.0.0.1 port 1", "* connect to 127.0.0.1:1 refused"]
    assert lines[-1] == "dodici: connect to 127.0.0.1:1 refused"


def test_nothing_stays_subscribed(run, server):
    run("-v", server.origin)
    run("-v", "http://127.0.0.1:1/")
    assert not any(channel.subscribers for channel in diagnostics._channels.values())
