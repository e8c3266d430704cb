"""`dodici call`: types by reflection, the envelope, streams, metadata, and exit statuses that tell the gRPC status."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.cli_kit import run_process, spawn
from tests.collective import kit

from dodici.cli import main
from dodici.cli.call_run import _plain
from dodici.cli.collector_client import tell
from dodici.collective.errors import call_error
from dodici.core.grpc_status import GrpcStatus

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with kit.process() as found:
        yield found


def call(*arguments: str) -> int:
    return main(["call", *arguments])


def test_typed_by_reflection(address: str, capsys: Capture) -> None:
    given = '{"sku": "a-1", "count": "7"}'
    assert call(address, "shop", "kit.shop.OrderService.Create", given) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"sku": "A-1", "count": "8"}
    assert told.err == ""


def test_short_name_and_slash(address: str, capsys: Capture) -> None:
    assert call(address, "shop", "OrderService/Create", '{"sku": "x"}') == 0
    assert json.loads(capsys.readouterr().out) == {"sku": "X", "count": "1"}


def test_verbose_tells_who_and_what(address: str, capsys: Capture) -> None:
    assert call(address, "shop", "OrderService.Create", "-v", "-m", "x-sent: seen") == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"count": "1"}
    assert "* types of kit.shop.OrderService from reflection" in told.err
    assert "< trailing x-seen: seen" in told.err
    assert "< trailing x-bin: AP8=" in told.err
    assert "* handled by kit-1, " in told.err


def test_streams_are_one_line_each(address: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(address, "shop", "OrderService.List", '{"sku": "s", "count": 3}') == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"sku": "s"},
        {"sku": "s", "count": "1"},
        {"sku": "s", "count": "2"},
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO('{"count": 1}\n{"count": 2} {"count": 3}\n'))
    assert call(address, "shop", "OrderService.Sum", "-") == 0
    assert json.loads(capsys.readouterr().out) == {"sku": "sum", "count": "6"}
    monkeypatch.setattr("sys.stdin", io.StringIO('{"count": 1}{"count": 2}'))
    assert call(address, "shop", "OrderService.Chat", "-") == 0
    assert [json.loads(line)["count"] for line in capsys.readouterr().out.splitlines()] == ["-1", "-2"]


@pytest.mark.parametrize(
    "given", ["null", "true", "7", "1.5", '"text"', '{"a": [1, {"b": null}], "ü": "ß"}', "[1, 2]", "[]", "{}"]
)
def test_values_of_the_envelope(address: str, given: str, capsys: Capture) -> None:
    assert call(address, "plain", "Echo.Say", given) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(given)


def test_without_input_nothing_is_sent(address: str, capsys: Capture) -> None:
    assert call(address, "plain", "Echo.Say", "-v") == 0
    told = capsys.readouterr()
    assert told.out == "null\n"
    assert "* nobody knows its types" in told.err
    assert "< trailing x-trailing: t" in told.err
    assert "* handled by kit-1, " in told.err


def test_a_stream_without_types(address: str, capsys: Capture) -> None:
    for options in ((), ("--stream",)):
        assert call(address, "plain", "Echo.Count", "3", *options) == 0
        assert capsys.readouterr().out == "0\n1\n2\n"
    assert call(address, "plain", "Echo.Count", "3", "--envelope") == 67
    assert "it cannot be called as unary_unary" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("namespace", "method", "given", "options", "status", "text"),
    [
        ("plain", "Echo.Say", '"abort"', (), GrpcStatus.ALREADY_EXISTS, "taken"),
        ("plain", "Echo.Say", '"bug"', (), GrpcStatus.INTERNAL, "plain/Echo.Say failed"),
        ("plain", "Echo.Shout", None, (), GrpcStatus.UNIMPLEMENTED, "no such method"),
        ("nowhere", "Echo.Say", None, (), GrpcStatus.NOT_FOUND, "no such namespace"),
        ("plain", "Echo.Say", None, ("--target", "b"), GrpcStatus.NOT_FOUND, "no such collector: 'b'"),
        (
            "shop",
            "OrderService.Fail",
            '{"sku": "abort", "count": 409}',
            (),
            GrpcStatus.ALREADY_EXISTS,
            "no such thing: ü",
        ),
        (
            "shop",
            "OrderService.Hold",
            '{"sku": "h"}',
            ("--timeout", "1"),
            GrpcStatus.DEADLINE_EXCEEDED,
            "",
        ),
    ],
)
def test_status_is_the_exit_status(
    address: str,
    namespace: str,
    method: str,
    given: str | None,
    options: tuple[str, ...],
    status: GrpcStatus,
    text: str,
    capsys: Capture,
) -> None:
    assert call(address, namespace, method, *([] if given is None else [given]), *options) == 64 + status
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"dodici: {status.name}")
    assert text in told.err
    assert told.err.count("\n") == 1
    assert "secret" not in told.err


def test_details_are_told_when_asked_for(address: str, capsys: Capture) -> None:
    assert call(address, "plain", "Echo.Say", '"abort"', "-v") == 70
    assert "  by: somebody\n" in capsys.readouterr().err


def test_what_does_not_fit_the_type(address: str, capsys: Capture) -> None:
    assert call(address, "shop", "OrderService.Create", '{"price": 1}') == 67
    told = capsys.readouterr().err
    assert "no kit.shop.Order" in told
    assert "price" in told


def test_nobody_there(capsys: Capture) -> None:
    assert call("127.0.0.1:1", "plain", "Echo.Say") == 78
    assert capsys.readouterr().err.startswith("dodici: UNAVAILABLE: ")


def test_standard_input_that_is_not_utf_8(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert call("127.0.0.1:1", "ns", "S.M", "-") == 2
    assert "standard input is not UTF-8" in capsys.readouterr().err


def test_a_leading_slash_is_no_part_of_the_name(address: str, capsys: Capture) -> None:
    assert call(address, "plain", "/Echo/Say", "1") == 0
    assert capsys.readouterr().out == "1\n"


def test_numbers_without_a_name_in_json() -> None:
    assert [_plain(float(name)) for name in ("nan", "inf", "-inf", "1.5")] == [
        "NaN",
        "Infinity",
        "-Infinity",
        1.5,
    ]


def test_what_a_collector_says_does_not_reach_the_terminal_as_it_is() -> None:
    said = call_error(GrpcStatus.INTERNAL, "one\ntwo \x1b[2J\x07")
    assert tell(said) == "INTERNAL: one two ?[2J?"


def test_characters_that_standard_output_has_not(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = '"ü \U0001f600"'
    for encoding in ("ascii", "latin-1"):
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
        ran = run_process("call", address, "plain", "Echo.Say", given)
        assert ran.status == 0, ran
        assert json.loads(ran.out.decode(encoding)) == json.loads(given)


def test_output_that_nobody_takes(address: str) -> None:
    with spawn("call", address, "plain", "Echo.Count", "100000", stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.wait(30) == 23
        assert process.stderr is not None
        assert process.stderr.read() == b""
    if Path("/dev/full").exists():
        with (
            Path("/dev/full").open("wb") as full,
            spawn("call", address, "plain", "Echo.Say", "1", stdout=full, stderr=-1) as process,
        ):
            assert process.communicate(timeout=30)[1] == b"dodici: cannot write: No space left on device\n"
            assert process.returncode == 23


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "ns", "S.M"), "not an address"),
        (("127.0.0.1:0", "ns", "S.M"), "port 0"),
        (("127.0.0.1:1", "ns", "Method"), "SERVICE.METHOD"),
        (("127.0.0.1:1", "ns", "S.M", "{"), "the argument is not JSON"),
        (("127.0.0.1:1", "ns", "S.M", "1 2"), "one JSON value"),
        (("127.0.0.1:1", "ns", "S.M", "NaN"), "not JSON: NaN is no value of it"),
        (
            ("127.0.0.1:1", "ns", "S.M", "[" * 50_000 + "]" * 50_000),
            "not JSON: brackets are nested too deeply",
        ),
        (("127.0.0.1:1", "ns", "S.M", "1" * 5000), "the argument is not JSON: "),
        (("127.0.0.1:1", "ns", "S.M", "-m", "x"), "NAME:VALUE"),
        (("127.0.0.1:1", "ns", "S.M", "-m", "x-bin:?"), "must be base64"),
        (("127.0.0.1:1", "ns", "S.M", "-m", "x-dodici-path:a"), "dodici's own"),
        (("127.0.0.1:1", "ns", "S.M", "--timeout", "0"), "--timeout"),
        (("127.0.0.1:1", "ns", "S.M", "--timeout", "nan"), "'nan' is no number of seconds"),
        (("127.0.0.1:1", "ns", "S.M", "--timeout", "1e12"), "2147483647"),
        (("127.0.0.1:1", "ns", "S.M", "--cacert", "gone.pem"), "cannot read gone.pem"),
        (("127.0.0.1:1", "ns", "S.M", "--cacert", __file__), "cannot load TLS certificates"),
        (("127.0.0.1:1", "ns", "S.M", "--cacert", __file__, "--cert", "gone", "--key", "x"), "cannot read"),
        (("127.0.0.1:1", "ns", "S.M", "--server-name", "x"), "--cacert"),
        (("127.0.0.1:1", "ns", "S.M", "--cert", "x"), "--cert and --key"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str, capsys: Capture) -> None:
    assert call(*arguments) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""


def test_help_has_every_status(capsys: Capture) -> None:
    assert call("--help") == 0
    told = capsys.readouterr().out
    for status in GrpcStatus:
        if status is not GrpcStatus.OK:
            assert f"{64 + status} {status.name}" in told


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("dodici.server.config.installed", lambda name: name != "grpc")
    for command in (["call", "127.0.0.1:1", "ns", "S.M"], ["collectors"], ["collector", "--id", "a"]):
        assert main(command) == 2
        assert "pip install 'dodici[collective]'" in capsys.readouterr().err
