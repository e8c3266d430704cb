"""Real etcds for the tests, ways to spoil them, and watchers that wait for what they are to see."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")

from tests.peers.processes import START, not_started, program, start, stop

from dodici.collective.contracts import MemberRecord, MembersChanged
from dodici.collective.discovery import EtcdClient, EtcdConfig, EtcdDiscovery

MEMBER = Path(__file__).with_name("member.py")
# Version 3.4 says the first, later ones the second.
_SERVING = re.compile(
    rb"serving (?:insecure )?client requests on 127\.0\.0\.1:(\d+)"
    rb"|serving client traffic.*\"address\": ?\"127\.0\.0\.1:(\d+)\""
)


class Etcd:
    """An etcd of one member. It binds port 0, and says in its log which one it got."""

    def __init__(self, folder: Path, *, tls: Sequence[str] = ()) -> None:
        self._binary = program("etcd", "etcd-server")
        self._folder = folder
        self._tls = tls
        self._scheme = "https" if tls else "http"
        self._process: subprocess.Popen[bytes] | None = None
        self._runs = 0
        self.port = 0
        self._start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, prefix: str = "/test", **options: Any) -> str:
        options = {"ttl": 2, "timeout": 1.0, **options}
        return f"etcd://{self.address}{prefix}?" + "&".join(
            f"{name}={value}" for name, value in options.items()
        )

    def config(self, prefix: str = "/test", **options: Any) -> EtcdConfig:
        return EtcdConfig((self.address,), prefix, **{"ttl": 2, "timeout": 1.0, **options})

    def kill(self) -> None:
        """As a power failure: nothing is said, the data stay."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def restart(self, *, wipe: bool = False) -> None:
        """Start again on the same port, with its data, or with none."""
        self.kill()
        if wipe:
            self._folder = self._folder.with_name(self._folder.name + "-anew")
        self._start()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            stop(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        # The port of a restart was free a moment ago, and whoever has it now may give it back.
        deadline = time.monotonic() + START
        while True:
            try:
                self.port = self._started()
                return
            except RuntimeError as error:
                if "address already in use" not in str(error) or time.monotonic() > deadline:
                    raise

    def _started(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._runs += 1
        log = self._folder / f"etcd-{self._runs}.log"
        client, peer = f"{self._scheme}://127.0.0.1:{self.port}", "http://127.0.0.1:0"
        self._process = process = start(
            [
                self._binary, "--data-dir", str(self._folder / "data"),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", f"default={peer}", *self._tls,
                # A second less for each start: it waits for nobody's vote.
                "--heartbeat-interval", "25", "--election-timeout", "250",
            ],
            log,
        )  # fmt: skip
        deadline = time.monotonic() + START
        while process.poll() is None and time.monotonic() < deadline:
            found = _SERVING.search(log.read_bytes())
            if found is not None:
                return int(found[1] or found[2])
            # Another process: there is no event to wait for.
            threading.Event().wait(0.01)
        raise not_started(process, log)


@contextmanager
def etcd(folder: Path, **options: Any) -> Iterator[Etcd]:
    server = Etcd(folder / "etcd", **options)
    try:
        yield server
    finally:
        server.close()


def record(name: str, *namespaces: str, port: int = 50051, **facts: Any) -> MemberRecord:
    return MemberRecord(name, f"127.0.0.1:{port}", namespaces or ("users",), **facts)


class Watcher:
    """Is told of changes, and waits for what they are to come to."""

    def __init__(self) -> None:
        self.changes: list[MembersChanged] = []
        self._told = asyncio.Event()

    def __call__(self, change: MembersChanged) -> None:
        self.changes.append(change)
        self._told.set()

    def ids(self, what: str) -> list[str]:
        """Ids of those that were ever `added`, `changed` or `removed`, in order."""
        return [each.id for change in self.changes for each in getattr(change, what)]

    async def until(self, satisfied: Callable[[], bool], timeout: float = 20.0) -> None:
        async with asyncio.timeout(timeout):
            while not satisfied():
                self._told.clear()
                await self._told.wait()


class Known:
    """A discovery that runs, and who watches it."""

    def __init__(self, discovery: EtcdDiscovery) -> None:
        self.discovery = discovery
        self.watcher = Watcher()

    @property
    def members(self) -> dict[str, MemberRecord]:
        return dict(self.discovery.members)

    async def sees(self, *ids: str, timeout: float = 20.0) -> None:
        await self.watcher.until(lambda: set(self.discovery.members) == set(ids), timeout)


@asynccontextmanager
async def running(discovery: EtcdDiscovery, self_record: MemberRecord) -> AsyncIterator[Known]:
    known = Known(discovery)
    await discovery.start(self_record, known.watcher)
    try:
        yield known
    finally:
        await discovery.stop()


@asynccontextmanager
async def client_of(config: EtcdConfig) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(config)
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def member_process(url: str, name: str, port: int, place: str = "") -> Iterator[subprocess.Popen[str]]:
    """A collector's membership in a process of its own, when it is registered."""
    command = [sys.executable, str(MEMBER), url, name, str(port), place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("registered "), f"the member said {line!r}"
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()


class Proxy:
    """A TCP proxy in front of an etcd: an endpoint that can be frozen or cut by itself."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.connections = 0

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def freeze(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        self._open.clear()

    def thaw(self) -> None:
        """Let through again."""
        self._open.set()

    def cut(self) -> None:
        """Reset what is there. New connections are taken."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            there, other = await asyncio.open_connection("127.0.0.1", self._to)
            self._writers.add(other)
            await asyncio.gather(self._pump(reader, other), self._pump(there, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, other):
                if each is not None:
                    self._writers.discard(each)
                    each.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        writer.close()
