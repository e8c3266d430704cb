"""The processes of the demo: two nodes that `dodici up` runs, and etcd where it is installed.

Everything lives in one temporary folder: a copy of examples/shop with addresses of its own, the nodes' sockets, the
stock. Each node is a process group, so that killing it is what the loss of a machine would be.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
import tomllib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

SHOP = Path(__file__).parents[1] / "shop"
NODES = ("node1", "node2")
STOCK = 10**9
_ETCD_SERVING = re.compile(
    r"serving (?:insecure )?client requests on (127\.0\.0\.1:\d+)"
    r"|serving client traffic.*\"address\": ?\"(127\.0\.0\.1:\d+)\""
)


class Broken(Exception):
    """Something did not happen as the demo promises."""


class Process:
    """A child with a process group of its own, whose last lines are kept."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self._command, self._environment, self._folder = command, environment, folder
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.lines: deque[str] = deque(maxlen=60)

    async def start(self, ready: re.Pattern[str], limit: float = 30.0) -> re.Match[str]:
        """Start it, and wait for the line that says that it is ready."""
        self.lines.clear()
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            cwd=self._folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        said: asyncio.Future[re.Match[str]] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(process, ready, said))
        try:
            async with asyncio.timeout(limit):
                return await said
        except TimeoutError:
            raise Broken(f"{self.name} was not ready within {limit:.0f} s") from None

    async def _read(
        self, process: asyncio.subprocess.Process, ready: re.Pattern[str], said: asyncio.Future[re.Match[str]]
    ) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            self.lines.append(line)
            if not said.done() and (found := ready.search(line)):
                said.set_result(found)
        if not said.done():
            said.set_exception(Broken(f"{self.name} ended before it was ready"))

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        """SIGKILL to all of its group: nothing is said, nothing is finished."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._ended()

    async def stop(self) -> int:
        """SIGTERM, and how it ended."""
        if not self.alive:
            return -1
        assert self._process is not None
        self._process.terminate()
        return await self._ended()

    async def _ended(self) -> int:
        assert self._process is not None
        assert self._reading is not None
        status = await self._process.wait()
        await self._reading
        return status


class Node(Process):
    """A `dodici up`, and the commands that talk to it."""

    def __init__(
        self, name: str, folder: Path, environment: dict[str, str], gateway: str, collector: str
    ) -> None:
        self._dodici = [sys.executable, "-m", "dodici"]
        command = [*self._dodici, "up", f"{name}.toml", "--name", name]
        super().__init__(name, command, environment, folder)
        self.gateway, self.collector = f"http://{gateway}", collector

    async def up(self) -> float:
        """Start it; how many seconds it took."""
        began = time.perf_counter()
        await self.start(re.compile(r"\bready: "))
        return time.perf_counter() - began

    async def run(self, *words: str) -> str:
        """`dodici WORDS --name NODE`; what it printed."""
        process = await asyncio.create_subprocess_exec(
            *self._dodici,
            *words,
            *([] if words[0] == "call" else ["--name", self.name]),
            env=self._environment,
            cwd=self._folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            printed, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = printed.decode(errors="replace").strip()
        if process.returncode:
            raise Broken(f"dodici {' '.join(words)} ended with status {process.returncode}: {text}")
        return text

    async def workers(self, service: str) -> list[int]:
        """The processes that serve it now."""
        status = json.loads(await self.run("ps", "--json"))
        found = next(each for each in status["services"] if each["name"] == service)
        return [slot["pid"] for slot in found["slots"] if slot["pid"] is not None]


class Cluster:
    """Both nodes, and what finds them.

    Attributes:
        nodes: by name.
        discovery: `"etcd://..."`, or None where the nodes know each other's addresses from their files.
        folder: the copy of the shop that they run.
    """

    def __init__(self, folder: Path, nodes: dict[str, Node], discovery: str | None) -> None:
        self.folder, self.nodes, self.discovery = folder, nodes, discovery

    @property
    def processes(self) -> list[Node]:
        return list(self.nodes.values())

    async def up(self) -> float:
        """Start both nodes side by side; how many seconds it took."""
        return max(await asyncio.gather(*(node.up() for node in self.processes)))

    async def down(self) -> None:
        """Stop both in order.

        Raises:
            Broken: one of them did not end with status 0.
        """
        alive = [node for node in self.processes if node.alive]
        for node, status in zip(alive, await asyncio.gather(*(node.stop() for node in alive)), strict=True):
            if status:
                raise Broken(f"{node.name} ended with status {status} after SIGTERM")


@asynccontextmanager
async def cluster(folder: Path, *, etcd: bool) -> AsyncIterator[Cluster]:
    """The nodes of examples/shop, not yet started, in `folder`; all that was started is gone at the end."""
    shutil.copytree(SHOP, folder / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    folder = folder / "shop"
    environment = {
        **os.environ,
        # The control sockets are found here, and nobody else's are.
        "XDG_RUNTIME_DIR": str(folder),
        "STOCK": str(STOCK),
        "STOCK_FILE": str(folder / "stock.sqlite"),
        "PYTHONUNBUFFERED": "1",
    }
    async with AsyncExitStack() as stack:
        discovery = await _etcd(folder, environment, stack) if etcd else None
        addresses = _move(folder, discovery)
        nodes = {name: Node(name, folder, environment, *addresses[name]) for name in NODES}
        for node in nodes.values():
            stack.push_async_callback(node.kill)
        yield Cluster(folder, nodes, discovery)


async def _etcd(folder: Path, environment: dict[str, str], stack: AsyncExitStack) -> str | None:
    binary = shutil.which("etcd")
    if binary is None:
        return None
    anywhere = "http://127.0.0.1:0"
    process = Process(
        "etcd",
        [
            binary, "--data-dir", str(folder / "etcd"),
            "--listen-client-urls", anywhere, "--advertise-client-urls", anywhere,
            "--listen-peer-urls", anywhere, "--initial-advertise-peer-urls", anywhere,
            "--initial-cluster", f"default={anywhere}",
            "--heartbeat-interval", "25", "--election-timeout", "250",
        ],
        environment,
        folder,
    )  # fmt: skip
    stack.push_async_callback(process.kill)
    serving = await process.start(_ETCD_SERVING)
    return f"etcd://{serving[1] or serving[2]}/demo?ttl=2"


def _move(folder: Path, discovery: str | None) -> dict[str, tuple[str, str]]:
    """Give the files addresses of the demo's own, and a full stock; each node's gateway and collector."""
    files = {name: folder / f"{name}.toml" for name in NODES}
    parts = {name: tomllib.loads(file.read_text()) for name, file in files.items()}
    written = {
        (name, part): keys["listen"]
        for name, content in parts.items()
        for part, keys in content.items()
        if "listen" in keys
    }
    moved = dict(zip(written, _free_addresses(len(written)), strict=True))
    for file in files.values():
        # Nothing is ever sold out.
        text = re.sub(r'\bSTOCK = "\d+"', f'STOCK = "{STOCK}"', file.read_text())
        for key, before in written.items():
            text = text.replace(f'"{before}"', f'"{moved[key]}"')
        if discovery is not None:
            text = re.sub(r"^connect = .*$", f'discovery = "{discovery}"', text, flags=re.MULTILINE)
        file.write_text(text)
    return {name: (moved[name, "gateway"], moved[name, "collector"]) for name in NODES}


def _free_addresses(count: int) -> list[str]:
    """Addresses that nobody has now. The nodes' files name them, so the system cannot choose later."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
