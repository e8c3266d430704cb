"""Where the body goes, and what else is shown."""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.cli_kit import environment, pattern, run_on_terminal, run_process, spawn

from dodici.cli.output import indented

SIZE = 3_000_001


def test_output_file_has_the_exact_bytes(run, server, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"longer than nothing" * SIZE)
    assert run("-o", str(file), f"{server.origin}/bytes/{SIZE}") == (0, b"", "")
    assert file.read_bytes() == pattern(SIZE)


def test_output_file_of_an_empty_body(run, server, tmp_path):
    assert run("-o", f"{tmp_path}/file", f"{server.origin}/bytes/0").status == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_output_to_stdout(run, server):
    assert run("-o", "-", f"{server.origin}/binary").out == b"\x89PNG\0\1\2\3"


def test_remote_name(run, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("-O", f"{server.origin}/bytes/20/name.txt?x=y").status == 0
    assert (tmp_path / "name.txt").read_bytes() == pattern(20)


@pytest.mark.parametrize("path", ["", "/", "/a/", "/.."])
def test_remote_name_that_is_none(run, server, path):
    ran = run("-O", f"{server.origin}{path}")
    assert ran.status == 23
    assert "use -o FILE" in ran.err
    assert not server.requests


def test_file_is_not_touched_without_a_response(run, server, tmp_path):
    (tmp_path / "file").write_bytes(b"precious")
    assert run("-o", f"{tmp_path}/file", "http://127.0.0.1:1/").status == 7
    assert run("-f", "-o", f"{tmp_path}/file", f"{server.origin}/status/404").status == 22
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_partial_file_stays(run, server, tmp_path):
    assert run("--timeout", "0.5", "-o", f"{tmp_path}/file", f"{server.origin}/drip").status == 28
    assert (tmp_path / "file").read_bytes() == b"begun "


def test_file_that_cannot_be_written(run, server, tmp_path):
    ran = run("-o", f"{tmp_path}/no/file", server.origin)
    assert ran.status == 23
    assert ran.err == f"dodici: cannot write {tmp_path}/no/file: No such file or directory\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk(run, server):
    told = "dodici: cannot write: No space left on device\n"
    assert run("-o", "/dev/full", server.origin) == (23, b"", told)
    with Path("/dev/full").open("wb") as full, spawn("get", server.origin, stdout=full, stderr=-1) as process:
        assert process.stderr is not None
        assert process.stderr.read().decode() == told
    assert process.returncode == 23


def test_include(run, server):
    ran = run("-i", server.origin)
    head, _, body = ran.out.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 13" in head
    assert body == b"Hello, world!"


def test_include_shows_every_head(run, server):
    ran = run("-iL", f"{server.origin}/redirect/1")
    assert ran.out.count(b"HTTP/1.1 ") == 2
    assert ran.out.startswith(b"HTTP/1.1 302 Found\r\n")
    assert b"\r\nLocation: /\r\n" in ran.out
    assert b"elsewhere" not in ran.out


def test_head(run, server):
    ran = run("-I", f"{server.origin}/bytes/1234")
    assert server.last.method == "HEAD"
    assert ran.out.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 1234\r\n" in ran.out
    assert ran.out.endswith(b"\r\n\r\n")


def test_json_in_a_pipe_is_raw(run, server):
    assert run(f"{server.origin}/json").out == b'{"a":[1,{}],"n":1E400,"s":"x\\u00e9,:{"}'


def test_json_on_a_terminal_is_indented_and_coloured(server):
    status, shown = run_on_terminal("get", f"{server.origin}/json")
    assert status == 0
    assert "\x1b[" in shown
    plain = _without_colour(shown)
    assert (
        plain == '{\r\n  "a": [\r\n    1,\r\n    {}\r\n  ],\r\n  "n": 1E400,\r\n  "s": "x\\u00e9,:{"\r\n}\r\n'
    )


def test_json_on_a_terminal_with_output_to_stdout_is_raw(server):
    assert run_on_terminal("get", "-o", "-", f"{server.origin}/json")[1].startswith('{"a":[1')


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (b'{"a":{"b":[]},"c":"\\"{"}', '{\n  "a": {\n    "b": []\n  },\n  "c": "\\"{"\n}'),
        (b"[[],[1,2]]", "[\n  [],\n  [\n    1,\n    2\n  ]\n]"),
        (b' "x" ', '"x"'),
        (b"12345678901234567890.0", "12345678901234567890.0"),
        (b'{"a":1,"a":2}', '{\n  "a": 1,\n  "a": 2\n}'),
        (b"{", None),
        (b"", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_indenting(given, shown):
    assert indented(given) == shown


def test_text_on_a_terminal_ends_its_line(server):
    assert run_on_terminal("get", server.origin) == (0, "Hello, world!\r\n")


def test_binary_is_kept_from_a_terminal(server):
    status, shown = run_on_terminal("get", f"{server.origin}/binary")
    assert status == 23
    assert "PNG" not in shown
    assert "-o FILE" in shown
    assert run_on_terminal("get", "-o", "-", f"{server.origin}/binary")[0] == 0


def test_progress_bar_on_a_terminal_alone(server, tmp_path):
    status, shown = run_on_terminal("get", "-o", str(tmp_path / "file"), f"{server.origin}/bytes/{SIZE}")
    assert status == 0
    assert (tmp_path / "file").read_bytes() == pattern(SIZE)
    assert "100%" in shown
    assert "2.9/2.9 MiB" in shown
    assert "/s" in shown
    ran = run_process("get", "-o", str(tmp_path / "file"), f"{server.origin}/bytes/{SIZE}")
    assert ran == (0, b"", "")
    status, shown = run_on_terminal(
        "get", "-s", "-o", str(tmp_path / "file"), f"{server.origin}/bytes/{SIZE}"
    )
    assert (status, shown) == (0, "")


def test_verbose_on_a_terminal_is_coloured(server):
    status, shown = run_on_terminal("get", "-v", server.origin)
    assert status == 0
    assert "\x1b[36m> GET / HTTP/1.1" in shown


def test_reader_that_went_away(server):
    process = spawn("get", f"{server.origin}/bytes/50000000", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(10) == pattern(10)
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait(20) == 23


@pytest.mark.parametrize("path", ["/slow", "/drip", "/bytes/50000000"])
def test_interrupt(server, path):
    # The last of them is stuck in a write to a pipe that nobody reads.
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "restore_signals": True}
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from dodici.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "get", "-v", f"{server.origin}{path}"]
    with subprocess.Popen(command, env=environment(), **options) as process:
        for line in process.stderr:
            if line.startswith(b"> accept" if path == "/slow" else b"< HTTP"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) == 130
    assert b"Traceback" not in rest
    assert b"dodici:" not in rest


def test_silent(run, server):
    assert run("-s", "http://127.0.0.1:1/") == (7, b"", "")
    assert run("-sS", "http://127.0.0.1:1/").err == "dodici: connect to 127.0.0.1:1 refused\n"


@pytest.mark.perf
def test_memory_stays_flat(server):
    """A child's peak; the small body goes first, since the peak of all children only grows."""

    def peak(size: int) -> int:
        with spawn("get", f"{server.origin}/bytes/{size}", stdout=subprocess.PIPE) as process:
            digest = hashlib.sha256()
            assert process.stdout is not None
            while piece := process.stdout.read(1 << 16):
                digest.update(piece)
        assert process.returncode == 0
        assert digest.digest() == hashlib.sha256(pattern(size)).digest()
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit

    small = peak(1000)
    assert peak(150_000_000) - small < 8 << 20


def _without_colour(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)
