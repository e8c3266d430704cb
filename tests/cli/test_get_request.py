"""What the options make of the request."""

from __future__ import annotations

import io
import os
import sys

import pytest
from tests.cli.cli_kit import UnixHandler, UnixServer, run_process, serving, spawn

import dodici


class _Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_plain(run, server):
    ran = run(server.origin)
    assert ran == (0, b"Hello, world!", "")
    request = server.last
    assert (request.method, request.target, request.body) == ("GET", "/", b"")
    assert request.get("user-agent") == f"dodici/{dodici.__version__}"
    assert request.get("accept") == "*/*"


def test_url_without_scheme_is_http(run, server):
    assert run(server.origin.removeprefix("http://")).out == b"Hello, world!"


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ([], "GET"),
        (["-X", "PATCH"], "PATCH"),
        (["-XPUT"], "PUT"),
        (["-I"], "HEAD"),
        (["-d", "a"], "POST"),
        (["-d", "a", "-X", "PUT"], "PUT"),
        (["--json", "1"], "POST"),
        (["-F", "a=b"], "POST"),
    ],
)
def test_method(run, server, options, method):
    assert run(*options, server.origin).status == 0
    assert server.last.method == method


def test_headers(run, server):
    run(
        "-H",
        "X-One: 1",
        "-H",
        "X-One: 2",
        "-H",
        "Accept:",
        "-H",
        "X-Empty;",
        "-H",
        "user-agent: me",
        server.origin,
    )
    request = server.last
    assert request.all("x-one") == ["1", "2"]
    assert request.get("accept") is None
    assert request.get("x-empty") == ""
    assert request.all("user-agent") == ["me"]


def test_user_agent(run, server):
    run("-A", "agent/1", server.origin)
    assert server.last.get("user-agent") == "agent/1"


def test_user(run, server):
    run("-u", "me:se:cret", server.origin)
    assert server.last.get("authorization") == "Basic bWU6c2U6Y3JldA=="


def test_data_is_joined_and_files_lose_their_line_ends(run, server, tmp_path):
    (tmp_path / "file").write_bytes(b"c=3\r\nd=4\n")
    run("-d", "a=1", "-d", "b=\xe9 2", "--data", f"@{tmp_path}/file", server.origin)
    assert server.last.body == "a=1&b=\xe9 2&c=3d=4".encode()
    assert server.last.get("content-type") == "application/x-www-form-urlencoded"


def test_content_type_of_ones_own(run, server):
    run("-d", "<a/>", "-H", "Content-Type: text/xml", server.origin)
    assert server.last.all("content-type") == ["text/xml"]


def test_data_binary_is_sent_byte_by_byte_with_its_length(run, server, tmp_path):
    (tmp_path / "file").write_bytes(b"a\r\n\0b\n" * 100_000)
    assert run("--data-binary", f"@{tmp_path}/file", server.origin).status == 0
    assert server.last.body == b"a\r\n\0b\n" * 100_000
    assert server.last.get("content-length") == "600000"
    run("--data-binary", f"@{tmp_path}/file", "-d", "x", server.origin)
    assert server.last.body == b"x&" + b"a\r\n\0b\n" * 100_000


def test_data_from_standard_input(run, server, monkeypatch):
    monkeypatch.setattr(sys, "stdin", _Stdin(b"from\nstdin\n"))
    run("-d", "@-", server.origin)
    assert server.last.body == b"fromstdin"


def test_json(run, server, tmp_path):
    (tmp_path / "file").write_bytes(b'{"a": 1}')
    for given in ('{"a": 1}', f"@{tmp_path}/file"):
        run("--json", given, server.origin)
        assert server.last.body == b'{"a": 1}'
        assert server.last.get("content-type") == "application/json"
        assert server.last.get("accept") == "application/json"


def test_form(run, server, tmp_path):
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "text").write_bytes(b"from a file")
    fields = ["title=Cat", f"photo=@{tmp_path}/cat.png", f"raw=@{tmp_path}/cat.png;type=x/y; a=b;filename=z"]
    fields.append(f"text=<{tmp_path}/text;type=text/x")
    assert run(*[item for field in fields for item in ("-F", field)], server.origin).status == 0
    request = server.last
    kind, _, boundary = (request.get("content-type") or "").partition("; boundary=")
    assert kind == "multipart/form-data"
    assert request.get("content-length") == str(len(request.body))
    parts = request.body.split(b"--" + boundary.encode())
    heads = [tuple(part.partition(b"\r\n\r\n")[::2]) for part in parts[1:-1]]
    assert heads == [
        (b'\r\ncontent-disposition: form-data; name="title"', b"Cat\r\n"),
        (
            b'\r\ncontent-disposition: form-data; name="photo"; filename="cat.png"\r\ncontent-type: image/png',
            b"\x89PNG\0\r\n",
        ),
        (
            b'\r\ncontent-disposition: form-data; name="raw"; filename="z"\r\ncontent-type: x/y; a=b',
            b"\x89PNG\0\r\n",
        ),
        (b'\r\ncontent-disposition: form-data; name="text"\r\ncontent-type: text/x', b"from a file\r\n"),
    ]


def test_upload_file_has_a_length(run, server, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    assert run("-T", f"{tmp_path}/file", server.origin).status == 0
    assert (server.last.method, len(server.last.body)) == ("PUT", 300_000)
    assert server.last.get("content-length") == "300000"


def test_upload_from_a_pipe_is_chunked(server):
    ran = run_process("get", "-T", "-", server.origin, data=b"y" * 300_000)
    assert ran.status == 0, ran.err
    assert server.last.body == b"y" * 300_000
    assert server.last.get("transfer-encoding") == "chunked"


def test_upload_from_a_device(server):
    assert run_process("get", "-T", "/dev/null", server.origin).status == 0
    assert server.last.body == b""


def test_redirects_are_followed_only_when_asked(run, server):
    assert run(f"{server.origin}/redirect/3").out == b"elsewhere"
    assert run("-L", f"{server.origin}/redirect/3").out == b"Hello, world!"
    assert [request.target for request in server.requests] == [
        "/redirect/3",
        "/redirect/3",
        "/redirect/2",
        "/redirect/1",
        "/",
    ]


def test_retry(run, server):
    ran = run("--retry", "2", f"{server.origin}/flaky/told")
    assert (ran.status, ran.out) == (0, b"at last")
    assert ran.err.startswith("dodici: ")
    assert "503 Service Unavailable; trying again in 1." in ran.err
    assert len(server.requests) == 2


def test_retry_gives_the_last_response(run, server):
    assert run("-s", "--retry", "1", f"{server.origin}/status/503") == (0, b"this is 503", "")
    assert len(server.requests) == 2


def test_compressed(run, server):
    assert run(f"{server.origin}/gzip").out[:2] == b"\x1f\x8b"
    assert server.last.get("accept-encoding") is None
    assert run("--compressed", f"{server.origin}/gzip").out == b"was compressed"
    assert "gzip" in (server.last.get("accept-encoding") or "")


def test_unix_socket(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a unix socket is short
    with serving(UnixServer("s", UnixHandler)) as server:
        ran = run("-v", "--unix-socket", "s", "http://docker/")
        assert (ran.status, ran.out) == (0, b"Hello, world!")
        assert "* connected to s in" in ran.err
        assert server.last.get("host") == "docker"


def test_password_is_asked_for(server):
    import pty

    keyboard, terminal = pty.openpty()
    process = spawn(
        "get", "-u", "me", server.origin, stdin=terminal, stdout=-1, stderr=-1, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    prompt = b"Password for me: "
    assert process.stderr.read(len(prompt)) == prompt
    os.write(keyboard, b"secret\n")
    with process.stdout, process.stderr:
        out, err = process.stdout.read(), process.stderr.read()
    process.wait(20)
    os.close(keyboard)
    os.close(terminal)
    assert process.returncode == 0, err
    assert out == b"Hello, world!"
    assert server.last.get("authorization") == "Basic bWU6c2VjcmV0"
