"""How it ends when it ends badly: the exit status, and one line."""

from __future__ import annotations

import socket
import time

import pytest
from tests.cli.cli_kit import run_process, scripted


def _one_line(err: str) -> str:
    assert err.startswith("dodici: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("ftp://127.0.0.1/", 1),
        ("http://", 3),
        ("http://a b/", 3),
        ("http://127.0.0.1:99999/", 3),
        ("http://[::1/", 3),
        ("http://no-such-host.invalid/", 6),
        ("http://127.0.0.1:1/", 7),
    ],
)
def test_before_there_is_a_connection(run, url, status):
    ran = run(url)
    assert ran.status == status
    assert ran.out == b""
    _one_line(ran.err)


@pytest.mark.parametrize(
    ("answer", "reset", "status"),
    [
        (b"", False, 52),
        (b"", True, 56),
        (b"HTTP/1.1 200 OK\r\ncontent-le", False, 56),
        (b"SSH-2.0-OpenSSH\r\n\r\n", False, 8),
        (b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", False, 8),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000 + b"\r\n\r\n", False, 8),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", False, 18),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", False, 18),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", True, 56),
    ],
    ids=[
        "nothing",
        "reset",
        "half a head",
        "no http",
        "bad head",
        "long head",
        "cut",
        "cut chunk",
        "reset body",
    ],
)
def test_bad_servers(run, answer, reset, status):
    with scripted(answer, reset=reset) as origin:
        ran = run(origin)
    assert ran.status == status, ran.err
    _one_line(ran.err)
    assert ran.out in {b"", b"abc", b"ab"}


def test_status_is_no_error_by_itself(run, server):
    assert run(f"{server.origin}/status/404") == (0, b"this is 404", "")


def test_fail(run, server):
    ran = run("-f", f"{server.origin}/status/404")
    assert (ran.status, ran.out) == (22, b"")
    assert _one_line(ran.err) == f"dodici: 404 Not Found for {server.origin}/status/404\n"
    assert run("-f", f"{server.origin}/status/302").status == 0
    assert run("-fi", f"{server.origin}/status/500").out.startswith(b"HTTP/1.1 500 ")


def test_total_timeout(run, server):
    began = time.monotonic()
    ran = run("-m", "0.4", f"{server.origin}/slow")
    assert ran.status == 28
    assert 0.3 < time.monotonic() - began < 5
    assert "0.4 s" in _one_line(ran.err)


def test_connect_timeout(run):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        try:
            # A full backlog is the one place on loopback where a connection is neither made nor refused.
            for _ in range(8):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            ran = run("--connect-timeout", "0.3", f"127.0.0.1:{listener.getsockname()[1]}")
        finally:
            for filler in fillers:
                filler.close()
    assert ran.status == 28
    assert "connect" in _one_line(ran.err)


def test_too_many_redirects(run, server):
    assert run("-L", "--max-redirs", "2", f"{server.origin}/redirect/2").status == 0
    ran = run("-L", "--max-redirs", "1", f"{server.origin}/redirect/2")
    assert (ran.status, ran.out) == (47, b"")
    _one_line(ran.err)
    assert run("-L", f"{server.origin}/loop").status == 47


@pytest.mark.parametrize("option", ["-d@", "--data-binary=@", "-Fa=@", "-Fa=<", "--json=@", "-T"])
def test_file_that_cannot_be_read(run, server, option):
    ran = run(f"{option}/no/such/file", server.origin)
    assert ran.status == 26
    assert _one_line(ran.err) == "dodici: cannot read /no/such/file: No such file or directory\n"
    assert not server.requests


@pytest.mark.parametrize(
    "options",
    [
        ["-H", "no colon"],
        ["-H", "na me: x"],
        ["-H", "x: a\nb: c"],
        ["-H", "transfer-encoding: chunked"],
        ["-X", "G T"],
        ["-F", "no-equals"],
        ["-d", "abc", "-H", "content-length: 2"],
    ],
)
def test_malformed_request(run, server, options):
    ran = run(*options, server.origin)
    assert ran.status == 2
    _one_line(ran.err)
    assert not server.requests


def test_broken_compression(run):
    answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nabcde"
    with scripted(answer) as origin:
        ran = run("--compressed", origin)
    assert ran.status == 61
    _one_line(ran.err)


def test_missing_unix_socket(run):
    assert run("--unix-socket", "/no/such/socket", "http://x/").status == 7


def test_no_traceback_from_the_process():
    ran = run_process("get", "http://127.0.0.1:1/")
    assert (ran.status, ran.out, ran.err) == (7, b"", "dodici: connect to 127.0.0.1:1 refused\n")
