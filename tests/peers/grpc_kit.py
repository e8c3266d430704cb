"""Starts the gRPC servers of the tests, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

HERE = Path(__file__).parent
INSTALL_JS = "sh scripts/node_packages.sh"


class GrpcServer:
    """A running server: ``with GrpcServer("grpcio") as server`` or ``"grpc-js"``."""

    def __init__(
        self, kind: str, *, max_concurrent_streams: int = 0, certificate: tuple[str, str] | None = None
    ) -> None:
        arguments = [str(max_concurrent_streams), *(certificate or ())]
        self.kind = kind
        self._process = subprocess.Popen(
            [*_command(kind), *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=HERE
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.kill()
            raise RuntimeError(f"the {kind} server ended with {self._process.returncode} before it listened")
        self.origin = f"{'https' if certificate else 'http'}://127.0.0.1:{int(line)}"

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _command(kind: str) -> list[str]:
    if kind == "grpcio":
        pytest.importorskip("grpc", reason="grpcio is not installed")
        return [sys.executable, str(HERE / "grpc_server.py")]
    node = shutil.which("node")
    if node is None:
        _missing("node is not installed: apt-get install nodejs")
    elif not (HERE / "node_modules" / "@grpc" / "grpc-js").is_dir():
        _missing(f"grpc-js is not installed: {INSTALL_JS}")
    return [str(node), str(HERE / "grpc_server.js")]


def _missing(said: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(said)
    pytest.skip(said)
