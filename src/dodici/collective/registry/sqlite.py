"""The store in a SQLite file, which several processes of one machine may share.

One thread has the connection; the loop never waits for the disk. Registrations that come while a commit runs are
written together by the next one, so that their number does not multiply its cost: each commit is synced, and what was
answered has survived a crash of the machine.

Every commit numbers its rows (`changed`). Catching up, with the commits of other processes or with one whose waiter
was cancelled, is reading the rows of higher numbers. That is done where a name is not found, and each `recheck`
seconds at most where it is: another process's addition counts at once, its change of a service within that time.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..errors import CollectiveError, call_error
from .catalogue import Catalogue, Draft, Entry, Kind

_R = TypeVar("_R")
_APPLICATION = 0x646F6463
_SCHEMA = 1
_TABLES = """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    content BLOB NOT NULL,
    version INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    UNIQUE (kind, namespace, name)
) STRICT;
CREATE INDEX entries_changed ON entries (changed);
"""
_GROUP = 1000
"""Registrations in one commit: others that wait for the file's lock get it in between."""


class SQLiteStore:
    """Keeps entries in a file, in WAL mode.

    Args:
        path: of the file, which is made if it is missing; its folder is not.
        busy_timeout: seconds to wait for the lock of another process.
        recheck: seconds after which the file is asked for changes that others made to known names.

    Raises:
        InvalidArgumentError: no path, or ":memory:".
    """

    def __init__(
        self, path: str | os.PathLike[str], *, busy_timeout: float = 5.0, recheck: float = 0.5
    ) -> None:
        if not os.fspath(path) or os.fspath(path) == ":memory:":
            raise InvalidArgumentError('a file is needed for the registry; without one, use "memory"')
        if "\0" in os.fsdecode(path):
            raise InvalidArgumentError(f"not the path of a file: {os.fspath(path)!r}")
        if busy_timeout < 0 or recheck < 0:
            raise InvalidArgumentError("busy_timeout and recheck are numbers of seconds, not negative")
        self.path = Path(path)
        self._busy_timeout = busy_timeout
        self._recheck = recheck
        self._catalogue = Catalogue()
        self._seen = 0
        self._checked = float("-inf")
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._waiting: list[tuple[Sequence[Draft], asyncio.Future[tuple[Entry, ...]]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    @property
    def current(self) -> bool:
        return time.monotonic() - self._checked < self._recheck

    async def start(self) -> None:
        """Open the file and read it.

        Raises:
            CollectiveError: DATA_LOSS (damaged, or no database), FAILED_PRECONDITION (another program's, or of a
                newer version), UNAVAILABLE (locked), and others for what the file system refuses.
        """
        if self._thread is not None:
            return
        self._thread = ThreadPoolExecutor(1, "dodici-registry")
        try:
            await self._run(self._open)
            await self.refresh()
        except BaseException:
            await self.stop()
            raise

    async def refresh(self) -> None:
        asked = self._refreshing
        if asked is not None and not asked.done():
            # It may have read before the row was written that this one is asked for. The first to wake begins anew.
            await asyncio.wait([asked])
        if self._refreshing is asked:
            self._refreshing = asyncio.get_running_loop().create_task(self._catch_up())
            self._refreshing.add_done_callback(_retrieve)
        assert self._refreshing is not None
        await asyncio.shield(self._refreshing)

    async def put(self, drafts: Sequence[Draft]) -> tuple[Entry, ...]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Entry, ...]] = loop.create_future()
        self._waiting.append((drafts, future))
        if self._writer is None:
            self._writer = loop.create_task(self._write())
        return await future

    async def stop(self) -> None:
        """Write what waits, and close the file."""
        if self._writer is not None:
            await asyncio.wait([self._writer])
        thread = self._thread
        if thread is not None:
            closed = False
            try:
                await self._run(self._close)
                closed = True
            finally:
                self._thread = None
                thread.shutdown(wait=closed)  # which then has nothing left to do

    # -- on the loop ---------------------------------------------------------------------------------------

    async def _run(self, job: Callable[..., _R], *args: Any) -> _R:
        if self._thread is None:
            raise call_error(GrpcStatus.UNAVAILABLE, f"the registry in {self.path} is not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, job, *args)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    async def _catch_up(self) -> None:
        asked = time.monotonic()
        self._take(await self._run(self._changes, self._seen))
        self._checked = asked

    async def _write(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
                try:
                    written, rows = await self._run(self._commit, [drafts for drafts, _ in group], self._seen)
                    self._take(rows)
                except CollectiveError as error:
                    for _, future in group:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), entries in zip(group, written, strict=True):
                    if future.done():
                        continue
                    if isinstance(entries, CollectiveError):
                        future.set_exception(entries)
                    else:
                        future.set_result(entries)
        finally:
            self._writer = None

    def _take(self, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            self._catalogue.apply(_entry(row) for row in rows)
            self._seen = max(self._seen, rows[-1][-1])

    def _failure(self, error: sqlite3.Error) -> CollectiveError:
        number = getattr(error, "sqlite_errorcode", 0) & 0xFF
        status, text = _FAILURES.get(number, (GrpcStatus.INTERNAL, "has failed"))
        return call_error(status, f"the registry in {self.path} {text}: {error}")

    # -- in the thread -------------------------------------------------------------------------------------

    def _open(self) -> None:
        if not self.path.parent.is_dir():
            raise call_error(
                GrpcStatus.FAILED_PRECONDITION, f"the folder of the registry {self.path} does not exist"
            )
        connection = sqlite3.connect(self.path, timeout=self._busy_timeout, isolation_level=None)
        self._connection = connection
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            self._check_owner(connection)
            _enter_wal(connection, self._busy_timeout)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not self._check_owner(connection):
                for statement in filter(str.strip, _TABLES.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_SCHEMA}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        self._file = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _check_there(self) -> None:
        """SQLite goes on with a file that nobody will find any more: what is written there is lost.

        Raises:
            CollectiveError: FAILED_PRECONDITION: the file was removed, or another was put in its place.
        """
        if self._identity() != self._file:
            raise call_error(
                GrpcStatus.FAILED_PRECONDITION,
                f"the registry in {self.path} was removed or replaced while it was open: start this collector again",
            )

    def _check_owner(self, connection: sqlite3.Connection) -> bool:
        """Whether the tables are there.

        Raises:
            CollectiveError: FAILED_PRECONDITION: they are another program's, or of a newer version.
        """
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            return False
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise call_error(
                GrpcStatus.FAILED_PRECONDITION,
                f"{self.path} is the database of another program: give the registry a file of its own",
            )
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != _SCHEMA:
            raise call_error(
                GrpcStatus.FAILED_PRECONDITION,
                f"the registry in {self.path} has format {version}, and this version of dodici reads {_SCHEMA}",
            )
        return True

    def _changes(self, since: int) -> list[tuple[Any, ...]]:
        self._check_there()
        return self._db.execute(
            "SELECT kind, namespace, name, content, version, number, changed FROM entries "
            "WHERE changed > ? ORDER BY changed",
            (since,),
        ).fetchall()

    def _commit(
        self, group: list[Sequence[Draft]], since: int
    ) -> tuple[list[tuple[Entry, ...] | CollectiveError], list[tuple[Any, ...]]]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            change = db.execute("SELECT coalesce(max(changed), 0) + 1 FROM entries").fetchone()[0]
            written = [_put(db, drafts, change) for drafts in group]
            rows = self._changes(since)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return written, rows

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection


def _put(db: sqlite3.Connection, drafts: Sequence[Draft], change: int) -> tuple[Entry, ...] | CollectiveError:
    """Write one registration. One whose merge refuses writes nothing, and those of its group are not its business."""
    there = [
        db.execute(
            "SELECT kind, namespace, name, content, version, number FROM entries "
            "WHERE kind = ? AND namespace = ? AND name = ?",
            draft.key,
        ).fetchone()
        for draft in drafts
    ]
    try:
        contents = [
            draft.over(None if row is None else row[3]) for draft, row in zip(drafts, there, strict=True)
        ]
    except CollectiveError as error:
        return error
    return tuple(
        _entry(row if row is not None and row[3] == content else _upsert(db, draft, content, change))
        for draft, row, content in zip(drafts, there, contents, strict=True)
    )


def _upsert(db: sqlite3.Connection, draft: Draft, content: bytes, change: int) -> tuple[Any, ...]:
    row: tuple[Any, ...] = db.execute(
        "INSERT INTO entries (kind, namespace, name, content, version, changed) VALUES (?, ?, ?, ?, 1, ?) "
        "ON CONFLICT (kind, namespace, name) DO UPDATE "
        "SET content = excluded.content, version = version + 1, changed = excluded.changed "
        "RETURNING kind, namespace, name, content, version, number",
        (*draft.key, content, change),
    ).fetchone()
    return row


def _entry(row: tuple[Any, ...]) -> Entry:
    kind, namespace, name, content, version, number = row[:6]
    return Entry(Kind(kind), namespace, name, content, version, number)


def _enter_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Switch to WAL, which another process may be doing at this moment: SQLite's own timeout does not cover that."""
    limit = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > limit:
                raise
            time.sleep(0.01)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever waits for it gets the exception. Nobody may be waiting any more."""
    if not task.cancelled():
        task.exception()


_FAILURES = {
    sqlite3.SQLITE_BUSY: (GrpcStatus.UNAVAILABLE, "is locked by another process"),
    sqlite3.SQLITE_LOCKED: (GrpcStatus.UNAVAILABLE, "is locked"),
    sqlite3.SQLITE_CORRUPT: (
        GrpcStatus.DATA_LOSS,
        "is damaged; restore it from a backup, or move it away to begin with an empty one",
    ),
    sqlite3.SQLITE_NOTADB: (
        GrpcStatus.DATA_LOSS,
        "is damaged, or no SQLite database; restore it, or move it away to begin with an empty one",
    ),
    sqlite3.SQLITE_FULL: (GrpcStatus.RESOURCE_EXHAUSTED, "cannot be written, the disk is full"),
    sqlite3.SQLITE_IOERR: (GrpcStatus.UNAVAILABLE, "cannot be read or written"),
    sqlite3.SQLITE_READONLY: (GrpcStatus.FAILED_PRECONDITION, "may not be written"),
    sqlite3.SQLITE_CANTOPEN: (GrpcStatus.FAILED_PRECONDITION, "cannot be opened"),
    sqlite3.SQLITE_PERM: (GrpcStatus.FAILED_PRECONDITION, "may not be opened"),
}
