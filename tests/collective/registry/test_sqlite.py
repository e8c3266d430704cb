"""The store in a file: what survives, who may share it, and what is said when it cannot be used."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.collective.registry.registry_kit import failing, file, running, service, serving, status_of

from dodici.collective.registry import RemoteRegistry, SQLiteStore
from dodici.collective.registry.catalogue import Draft, Kind
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

REGISTRAR = str(Path(__file__).with_name("registrar.py"))


def registrar(path: Path, first: int, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, REGISTRAR, str(path), "shared", str(first), str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    try:
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return output.strip()


async def test_what_another_process_registered_is_there_after_its_end(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    assert await asyncio.to_thread(ended, registrar(path, 0, 3)) == "1 1 1"
    async with running(SQLiteStore(path)) as registry:
        assert [each.service_name for each in await registry.services("shared")] == ["S0", "S1", "S2"]
        assert (await registry.validate("shared", "S1", "Get")).valid
        assert (await registry.register_service("shared", service("S1", "Get", "Put"))).version == 2
    # And the version counts on from where it was.
    assert await asyncio.to_thread(ended, registrar(path, 1, 1)) == "3"


async def test_types_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    async with running(SQLiteStore(path)) as registry:
        base = file("base.proto", "base", ["Base"])
        users = file(imports=["base.proto"], fields={"base": ".base.Base"})
        await registry.register_proto("users", users, [base])
        await registry.register_service("users", service(types=".a.User"), users)
    async with running(SQLiteStore(path)) as registry:
        types = await registry.types("users", "a.UserService")
        user = types.input("GetUser", {"name": "n", "base": {"name": "b"}})
        assert user.SerializeToString() == b"\x0a\x01n\x12\x03\x0a\x01b"


@pytest.mark.weak_spot(22)
async def test_more_than_ten_thousand_services_are_listed_completely(tmp_path: Path) -> None:
    count = 12_000
    path = tmp_path / "registry.db"
    async with running(SQLiteStore(path)) as registry:
        await asyncio.gather(
            *(
                registry.register_service(f"n{number % 3}", service(f"S{number:05}"))
                for number in range(count)
            )
        )
    async with running(SQLiteStore(path)) as registry:
        names = [each.service_name for each in await registry.services()]
        assert sorted(names) == [f"S{number:05}" for number in range(count)]
        async with serving(registry) as (address, _):
            remote = RemoteRegistry(address)
            try:
                assert [each.service_name for each in await remote.services()] == names
                assert len(await remote.services("n1")) == count // 3
            finally:
                await remote.stop()


async def test_two_processes_and_many_tasks_register_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    others = [registrar(path, 0, 100), registrar(path, 50, 100)]
    try:
        async with running(SQLiteStore(path)) as registry:
            await asyncio.gather(
                *(registry.register_service("shared", service(f"S{n}", "Get")) for n in range(100, 200))
            )
            for other in others:
                versions = (await asyncio.to_thread(ended, other)).split()
                assert versions == ["1"] * 100  # all say the same of each service, whoever was first
            assert len(await registry.services("shared")) == 200
    finally:
        for other in others:
            other.kill()
            other.communicate()


async def test_what_another_writer_adds_counts_at_once_and_what_it_changes_soon(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    async with (
        running(SQLiteStore(path, recheck=1000)) as slow,
        running(SQLiteStore(path, recheck=0)) as quick,
        running(SQLiteStore(path)) as writer,
    ):
        await writer.register_service("n", service("S", "Old"))
        for reader in (slow, quick):
            assert (await reader.validate("n", "S", "Old")).valid
        await writer.register_service("n", service("S", "New"))
        assert not quick.known("n", "S", "Old")
        assert not (await quick.validate("n", "S", "Old")).valid
        assert slow.known("n", "S", "Old")
        assert (await slow.validate("n", "S", "New")).valid
        assert not slow.known("n", "S", "Old")


async def test_catching_up_reads_what_is_new_and_many_who_ask_share_it(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    reader = SQLiteStore(path)
    async with running(reader) as registry, running(SQLiteStore(path)) as writer:
        await asyncio.gather(*(writer.register_service("n", service(f"S{n}")) for n in range(20)))
        read: list[int] = []
        changes = reader._changes

        def counted(since: int) -> Any:
            rows = changes(since)
            read.append(len(rows))
            return rows

        reader._changes = counted  # type: ignore[method-assign]
        await asyncio.gather(*(registry.lookup("n", f"S{n}") for n in range(20)))
        assert read in ([20], [20, 0])
        read.clear()
        await writer.register_service("n", service("New"))
        await registry.lookup("n", "New")
        await registry.services()
        assert read == [1, 0]


async def test_the_loop_never_waits_for_the_file(tmp_path: Path) -> None:
    async with running(SQLiteStore(tmp_path / "registry.db")) as registry:
        await registry.register_service("n", service())
        store = registry.store
        assert isinstance(store, SQLiteStore)
        held, proceed = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            proceed.wait(30)

        blocked = asyncio.ensure_future(store._run(hold))
        await asyncio.to_thread(held.wait, 30)
        writing = asyncio.ensure_future(registry.register_service("n", service("Other")))
        assert registry.known("n", "UserService", "GetUser")
        assert (await registry.lookup("n", "UserService")).version == 1
        assert not writing.done()
        proceed.set()
        await blocked
        assert (await writing).version == 1


async def test_registrations_that_wait_are_committed_together(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "registry.db")
    async with running(store) as registry:
        commits = 0
        commit = store._commit

        def counted(*arguments: Any) -> Any:
            nonlocal commits
            commits += 1
            return commit(*arguments)

        store._commit = counted  # type: ignore[method-assign]
        await asyncio.gather(*(registry.register_service("n", service(f"S{n}")) for n in range(500)))
        assert commits <= 2


async def test_a_registration_that_nobody_waits_for_any_more_is_made_and_known(tmp_path: Path) -> None:
    async with running(SQLiteStore(tmp_path / "registry.db")) as registry:
        given_up = asyncio.ensure_future(registry.register_service("n", service("A")))
        await asyncio.sleep(0)
        given_up.cancel()
        await registry.register_service("n", service("B"))
        assert [each.service_name for each in await registry.services("n")] == ["A", "B"]


async def test_several_entries_are_written_all_or_none(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "registry.db")
    async with running(store) as registry:
        unusable = Draft(Kind.SERVICE, "n", "S", None)  # type: ignore[arg-type]
        error = await failing(store.put([Draft(Kind.FILE, "n", "f.proto", b""), unusable]))
        assert error.grpc_status is GrpcStatus.INTERNAL
        await store.refresh()
        assert store.catalogue.keys() == set()
        assert (await registry.register_service("n", service())).version == 1


async def test_a_file_that_another_process_keeps_locked(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    async with running(SQLiteStore(path, busy_timeout=0.05)) as registry:
        await registry.register_service("n", service())
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN EXCLUSIVE")
            error = await failing(registry.register_service("n", service("Other")))
            assert error.grpc_status is GrpcStatus.UNAVAILABLE
            assert error.message == f"the registry in {path} is locked by another process: database is locked"
            # Reading goes on: a writer does not lock readers out of a file in WAL mode.
            assert (await registry.validate("n", "UserService", "GetUser")).valid
            other.execute("COMMIT")
        finally:
            other.close()
        assert (await registry.register_service("n", service("Other"))).version == 1


def text(path: Path) -> None:
    path.write_text("no database at all, " * 100)


def of_another(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()


async def newer(path: Path) -> None:
    async with running(SQLiteStore(path)):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "status", "said"),
    [
        (text, GrpcStatus.DATA_LOSS, "is damaged, or no SQLite database; restore it, or move it away"),
        (of_another, GrpcStatus.FAILED_PRECONDITION, "is the database of another program"),
        (newer, GrpcStatus.FAILED_PRECONDITION, "has format 9, and this version of dodici reads 1"),
    ],
    ids=["text", "another program's", "newer"],
)
async def test_a_file_that_cannot_be_used(tmp_path: Path, spoil: Any, status: GrpcStatus, said: str) -> None:
    path = tmp_path / "registry.db"
    spoiling = spoil(path)
    if spoiling is not None:
        await spoiling
    before = path.read_bytes()
    error = await failing(SQLiteStore(path).start())
    assert (error.grpc_status, said in error.message, str(path) in error.message) == (status, True, True)
    assert path.read_bytes() == before


async def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    async with running(SQLiteStore(path)) as registry:
        await asyncio.gather(*(registry.register_service("n", service(f"S{n}")) for n in range(300)))
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    error = await failing(SQLiteStore(path).start())
    assert error.grpc_status is GrpcStatus.DATA_LOSS
    assert "is damaged" in error.message


async def test_an_entry_that_cannot_be_read(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "registry.db")
    async with running(store):
        error = await failing(store.put([Draft(Kind.SERVICE, "n", "S", b"\xff")]))
    assert error.grpc_status is GrpcStatus.DATA_LOSS
    assert "the registry's service 'S' in 'n' cannot be read" in error.message


async def test_a_folder_that_is_not_there_and_one_in_place_of_the_file(tmp_path: Path) -> None:
    error = await failing(SQLiteStore(tmp_path / "no" / "registry.db").start())
    assert "the folder of the registry" in error.message
    assert await status_of(SQLiteStore(tmp_path).start()) is GrpcStatus.FAILED_PRECONDITION


async def test_before_the_start_and_after_the_end(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "registry.db")
    for _ in range(2):
        assert await status_of(store.refresh()) is GrpcStatus.UNAVAILABLE
        assert await status_of(store.put([Draft(Kind.FILE, "n", "f", b"")])) is GrpcStatus.UNAVAILABLE
        await store.start()
        await store.start()
        await store.stop()
    await store.stop()
    assert [
        thread.name for thread in threading.enumerate() if thread.name.startswith("dodici-registry")
    ] == []


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="a file is needed"):
        SQLiteStore(path)


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_was_taken_away_takes_no_registrations(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "registry.db"
    async with running(SQLiteStore(path, recheck=0)) as registry:
        await registry.register_service("n", service())
        for each in tmp_path.iterdir():
            each.rename(tmp_path / f"old-{each.name}")
        if replaced:
            async with running(SQLiteStore(path)) as other:
                await other.register_service("n", service("Other"))
        for failed in (
            registry.register_service("n", service("Lost")),
            registry.lookup("n", "UserService"),
            registry.services(),
        ):
            error = await failing(failed)
            assert error.grpc_status is GrpcStatus.FAILED_PRECONDITION
            assert error.message.startswith(f"the registry in {path} was removed or replaced")
    async with running(SQLiteStore(tmp_path / "old-registry.db")) as old:
        assert [each.service_name for each in await old.services()] == ["UserService"]


def test_what_is_no_path() -> None:
    with pytest.raises(InvalidArgumentError, match="not the path of a file"):
        SQLiteStore("a\0b")
