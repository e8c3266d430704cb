from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.cli.cli_kit import Handler, Ran, RecordingServer, serving

from dodici.cli import main


@pytest.fixture(scope="module")
def _server() -> Iterator[RecordingServer]:
    with serving(RecordingServer(("127.0.0.1", 0), Handler)) as server:
        yield server


@pytest.fixture
def server(_server: RecordingServer) -> RecordingServer:
    _server.requests.clear()
    return _server


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Ran]:
    """`dodici get ...` in this process."""

    def get(*arguments: str) -> Ran:
        status = main(["get", *arguments])
        captured = capsysbinary.readouterr()
        return Ran(status, captured.out, captured.err.decode())

    return get
