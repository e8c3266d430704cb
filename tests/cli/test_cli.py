"""The command as such: help, version, usage errors, the missing extra."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.cli.cli_kit import environment, run_process

import dodici
from dodici.cli import main
from dodici.cli.app import cli
from dodici.cli.exits import TABLE
from dodici.cli.get import get

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def test_version():
    ran = run_process("--version")
    assert ran.status == 0
    assert ran.out.startswith(f"dodici {dodici.__version__} (".encode())


def test_help_of_the_group():
    result = CliRunner().invoke(cli, ["--help"], prog_name="dodici")
    assert result.exit_code == 0
    assert "get" in result.output


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_mentions_every_option_and_status(option):
    result = CliRunner().invoke(cli, ["get", option], prog_name="dodici")
    assert result.exit_code == 0
    names = [name for parameter in get.params for name in parameter.opts if name.startswith("-")]
    assert len(names) > 40
    for name in names:
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", result.output), name
    for parameter in get.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    for status, meaning in TABLE.items():
        assert f"{status}  {meaning}" in result.output


def test_docs_mention_every_option_and_status():
    text = DOCS.read_text()
    for parameter in get.params:
        for name in parameter.opts:
            assert not name.startswith("-") or f"`{name}" in text, name
    for status, meaning in TABLE.items():
        assert f"| {status} | {meaning} |" in text, status


def test_no_command_shows_help():
    ran = run_process()
    assert ran.status == 2
    assert "Usage: dodici" in ran.err
    assert ran.out == b""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["get"], "URL"),
        (["get", "--nope", "x"], "--nope"),
        (["nope"], "nope"),
        (["get", "--timeout", "-1", "x"], "--timeout"),
        (["get", "--timeout", "nan", "x"], "--timeout"),
        (["get", "--retry", "many", "x"], "--retry"),
        (["get", "-d", "a", "--json", "1", "x"], "--data and --json"),
        (["get", "-I", "-d", "a", "x"], "--head and --data"),
        (["get", "-o", "a", "-O", "x"], "--output and --remote-name"),
        (["get", "--key", "a", "x"], "--cert"),
        (["get", "-k", "--cacert", "a", "x"], "--insecure and --cacert"),
    ],
)
def test_wrong_usage_is_told_in_one_line(arguments, text, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    first, *rest = err.splitlines()
    assert out == ""
    assert first.startswith("dodici: ")
    assert text in first
    assert len(rest) == 1
    assert "--help" in rest[0]


@pytest.mark.parametrize("missing", [{"click"}, {"rich"}, {"click", "rich"}])
def test_missing_extra_is_named(missing, monkeypatch, capsys):
    monkeypatch.setattr(
        "dodici.cli.find_spec", lambda name: None if name in missing else importlib.util.find_spec(name)
    )
    assert main(["get", "http://127.0.0.1:1/"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pip install 'dodici[cli]'" in err
    assert all(name in err for name in missing)


def test_importing_the_package_loads_neither_click_nor_rich():
    script = (
        "import dodici, dodici.cli, sys; print([m for m in ('click', 'rich', 'ssl') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_wrong_usage_with_a_click_that_has_no_error_for_missing_commands(monkeypatch, capsys):
    import click

    from dodici.cli import main

    monkeypatch.delattr(click.exceptions, "NoArgsIsHelpError", raising=False)
    assert main(["get", "--nope"]) == 2
    assert capsys.readouterr().err.startswith("dodici: No such option")
