"""Requests through every layer, and through the halves of the way alone.

`--worker` is who is measured: ``whole`` (gateway, collector, hop, mesh, worker, on two nodes of `dodici up`),
``gateway`` (gateway, mesh, worker, on one node), ``hop`` (a collector in this process, hop, mesh, worker). The halves
together are the layers of the whole, and one worker more.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from harness import Client, Job, Unsupported, main

import dodici

MEETING = 10.0  # seconds
APP = Path(__file__).resolve().parents[1] / "collective" / "origin_app.py"
NEAR = """
[gateway]
listen = "{gateway}"
[services.near]
app = "origin_app:app"
path = "/near"
"""
FAR = """
[services.far]
app = "http://Echo.bench.collective"
path = "/far"
"""
COLLECTOR = """
[collector]
id = "{name}"
listen = "{address}"
namespaces = ["bench"]
connect = [{connect}]
"""
ORIGIN = """
[collector.services."bench.Echo"]
origin = "http://near.local"
"""


def free() -> str:
    """An address of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


class OriginClient(Client):
    """One caller or more, over HTTP or through a collector."""

    package = "dodici"
    absolute = True
    versions = ("http/1.1",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._folder = tempfile.TemporaryDirectory()
        self._nodes: list[subprocess.Popen[str]] = []
        self._opened = AsyncExitStack()
        self._dispatcher: Any
        self._url = ""

    def _node(self, name: str, text: str) -> None:
        folder = Path(self._folder.name)
        (folder / APP.name).write_text(APP.read_text())
        (folder / f"{name}.toml").write_text(text)
        command = [
            str(Path(sys.executable).with_name("dodici")),
            "up",
            f"{name}.toml",
            "--name",
            self._name(name),
        ]
        node = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._nodes.append(node)
        assert node.stdout is not None
        said: list[str] = []
        for line in node.stdout:
            said.append(line)
            if "ready" in line:
                return
        raise RuntimeError(f"{name} did not start: {''.join(said)[-500:]}")

    def _name(self, node: str) -> str:
        return f"bench-{node}-{os.getpid()}"

    async def open(self) -> None:
        worker = self.job.worker
        gateway, collector = free(), free()
        if worker in {"whole", "hop"}:
            served = NEAR.format(gateway=free()) + COLLECTOR.format(name="b", address=collector, connect="")
            self._node("b", served + ORIGIN)
        match worker:
            case "gateway":
                self._node("a", NEAR.format(gateway=gateway))
                self._url = f"http://{gateway}/near/"
            case "whole":
                own = COLLECTOR.format(name="a", address=free(), connect=f'"{collector}"')
                self._node("a", NEAR.format(gateway=gateway) + FAR + own)
                self._url = f"http://{gateway}/far/"
            case "hop":
                await self._join(collector)
                return
            case _:
                raise Unsupported(worker)
        self._dispatcher = dodici.Agent(connections=self.job.concurrency, keep_alive_timeout=600)
        self._opened.push_async_callback(self._dispatcher.close)
        await self._answered()

    async def resume(self) -> None:
        # A collector that was stopped was given up by its peers, and finds them again.
        await asyncio.sleep(1.0)
        await self._answered()

    async def _answered(self) -> None:
        """Wait until the nodes have met: one that is ready may not be connected yet."""
        async with asyncio.timeout(MEETING):
            while not await self._answers():
                await asyncio.sleep(0.05)

    async def _answers(self) -> bool:
        try:
            response = await self._dispatcher.request(self._url, method="GET")
            await response.body.bytes()
        except dodici.DodiciError:
            return False
        return bool(response.status_code == 200)

    async def _join(self, address: str) -> None:
        from dodici.collective import CollectiveInterceptor, Collector

        collector = Collector("client", "127.0.0.1:0", namespaces=["bench"])
        await self._opened.enter_async_context(collector)
        await collector.connect_to(address)
        self._dispatcher = dodici.Agent().compose(CollectiveInterceptor(collector))
        self._opened.push_async_callback(self._dispatcher.close)
        self._url = "http://Echo.bench.collective/"

    def _once(self) -> Any:
        request, url, size = self._dispatcher.request, self._url, self.job.size

        async def call() -> int:
            response = await request(url, method="GET")
            body: bytes = await response.body.bytes()
            if response.status_code != 200 or len(body) != size:
                raise RuntimeError(f"another answer: {response.status_code} {body[:60]!r}")
            return len(body)

        return call

    async def close(self) -> None:
        await self._opened.aclose()
        for node in self._nodes:
            node.terminate()
        for node in self._nodes:
            try:
                node.wait(10)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()
            assert node.stdout is not None
            node.stdout.close()
        self._folder.cleanup()


if __name__ == "__main__":
    main(OriginClient)
