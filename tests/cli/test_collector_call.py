"""`dodici call`: types by reflection, the envelope, streams, metadata, and exit statuses that tell the gRPC status."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
from tests.collective import kit

from dodici.cli import main
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "ns", "S.M"), "not an address"),
        (("127.0.0.1:0", "ns", "S.M"), "port 0"),
        (("127.0.0.1:1", "ns", "Method"), "SERVICE.METHOD"),
        (("127.0.0.1:1", "ns", "S.M", "{"), "the argument is not JSON"),
        (("127.0.0.1:1", "ns", "S.M", "1 2"), "one JSON value"),
        (("127.0.0.1:1", "ns", "S.M", "-m", "x"), "NAME:VALUE"),
        (("127.0.0.1:1", "ns", "S.M", "-m", "x-bin:?"), "must be base64"),
        (("127.0.0.1:1", "ns", "S.M", "-m", "x-dodici-path:a"), "dodici's own"),
        (("127.0.0.1:1", "ns", "S.M", "--timeout", "0"), "--timeout"),
        (("127.0.0.1:1", "ns", "S.M", "--cacert", "gone.pem"), "cannot read gone.pem"),
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
