"""User states in one SQLite file: the default store, nothing to install or to run."""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reranker.errors import StoreError
from reranker.stores.records import (
    TIMEOUT_SECONDS,
    context_record,
    interactions_record,
    read_record,
    state_record,
    user_key,
    user_keys,
    user_of,
    with_context,
)
from reranker.types import UserId, UserInteraction, UserState

_APPLICATION_ID = 0x52524B55  # "RRKU" in the file's header: this file is ours
_FORMAT = 1
_PAGE_OF_USERS = 1000
_EXPIRED_A_WRITE = 64  # rows that a write removes on its way, so that no write takes long

# traces.deletions counts deletions whose bytes may still lie in the file; `forget` makes it 0.
_SCHEMA = f"""
CREATE TABLE users (key TEXT PRIMARY KEY, record BLOB NOT NULL, expires_at REAL);
CREATE INDEX users_by_expiry ON users (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE traces (deletions INTEGER NOT NULL);
INSERT INTO traces VALUES (0);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_FORMAT};
"""

_LIVE = "(expires_at IS NULL OR expires_at > ?)"


class SqliteUserStore:
    """A `UserStore` in a file, for threads and processes of one machine (not for a network drive).

    Args:
        path: the file; made when it does not exist. `path-wal` and `path-shm` beside it belong to it.
        ttl_seconds: a state expires this long after it was last written; None keeps it.
        timeout_seconds: that a writer waits for the others.

    Raises:
        StoreError: the file is damaged, belongs to another program or cannot be opened.
    """

    def __init__(
        self, path: Path | str, ttl_seconds: float | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        if ttl_seconds is not None and ttl_seconds <= 0:
            raise StoreError(f"ttl_seconds must be above 0, got {ttl_seconds}; None keeps states for ever")
        self.path = Path(path)
        self.ttl_seconds = ttl_seconds
        self._busy_seconds = timeout_seconds
        self._closed = False
        self._of_parents: list[sqlite3.Connection] = []
        self._connect()

    def get(self, user_ids: Sequence[UserId], last: int | None = None) -> dict[UserId, UserState]:
        keys = user_keys(user_ids)
        with self._reading() as connection:
            rows = connection.execute(
                f"SELECT key, record FROM users WHERE key IN (SELECT value FROM json_each(?)) AND {_LIVE}",
                (json.dumps(list(keys)), time.time()),
            ).fetchall()
        return {keys[key]: read_record(user_of(key), record, last) for key, record in rows}

    def put(self, states: Iterable[UserState]) -> None:
        rows = [(user_key(state.user_id), state_record(state)) for state in states]
        with self._writing() as connection:
            self._write(connection, rows)

    def append(self, user_id: UserId, interactions: Sequence[UserInteraction], last: int | None = None) -> UserState:
        key, now = user_key(user_id), time.time()
        added = interactions_record(user_id, interactions, now)
        with self._writing() as connection:
            found = connection.execute(f"SELECT record FROM users WHERE key = ? AND {_LIVE}", (key, now)).fetchone()
            record = (found[0] if found else b"") + added
            state = read_record(user_of(key), record, last)  # before it is written: a damaged record stays as it is
            self._write(connection, [(key, record)])
        return state

    def put_contexts(self, states: Iterable[UserState]) -> None:
        wanted = [(user_key(state.user_id), context_record(state), bool(state.interactions)) for state in states]
        with self._writing() as connection:
            for key, added, needs_record in wanted:
                found = connection.execute(
                    f"SELECT record FROM users WHERE key = ? AND {_LIVE}", (key, time.time())
                ).fetchone()
                if found or not needs_record:
                    self._write(connection, [(key, with_context(user_of(key), found[0] if found else b"", added))])

    def forget(self, user_ids: Sequence[UserId]) -> int:
        """Removes every trace of these users; returns how many were there.

        SQLite's own secure_delete leaves copies of rows in pages that were split, so the whole file is written anew
        (about 1 s for 100,000 users): forget many users in one call.

        Raises:
            DataError: one text instead of several ids.
            StoreError: the users are gone, but old bytes could not be cleared (another process reads, or the disk is
                full); call it again.
        """
        keys = json.dumps(list(user_keys(user_ids)))
        with self._writing() as connection:
            live = f"SELECT count(*) FROM users WHERE key IN (SELECT value FROM json_each(?)) AND {_LIVE}"
            count = int(connection.execute(live, (keys, time.time())).fetchone()[0])
            gone = connection.execute("DELETE FROM users WHERE key IN (SELECT value FROM json_each(?))", (keys,))
            self._count_deletions(connection, gone.rowcount)
            deletions = int(connection.execute("SELECT deletions FROM traces").fetchone()[0])
        if deletions:
            self._clear_traces(deletions)
        return count

    def user_ids(self) -> Iterator[UserId]:
        last = ""
        while True:
            with self._reading() as connection:
                rows = connection.execute(
                    f"SELECT key FROM users WHERE key > ? AND {_LIVE} ORDER BY key LIMIT ?",
                    (last, time.time(), _PAGE_OF_USERS),
                ).fetchall()
            if not rows:
                return
            for (key,) in rows:
                yield user_of(key)
            last = rows[-1][0]

    def close(self) -> None:
        """Frees the file; the last one to close it also moves the write-ahead log into it."""
        with self._lock:
            if not self._closed and self._pid == os.getpid():
                self._connection.close()
                with self._read_lock:
                    self._reader.close()
            self._closed = True

    def _connect(self) -> None:
        self._pid = os.getpid()
        self._lock, self._read_lock = threading.RLock(), threading.RLock()
        with self._explained():
            self._connection = self._open()
            try:
                self._prepare(self._connection)
                self._reader = self._open()  # whoever reads does not wait for a write in this process
                self._reader.execute("PRAGMA query_only = ON")
            except BaseException:
                self._connection.close()
                raise

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # in WAL a crash of the process loses nothing
        connection.execute("PRAGMA secure_delete = ON")
        with _transaction(connection):  # two processes may find the file empty at once
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            is_new = application == 0 and not connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
            if is_new:
                for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
                    connection.execute(statement)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not is_new and (application, version) != (_APPLICATION_ID, _FORMAT):
            raise StoreError(
                f"{self.path} is an SQLite file, but not a user store of format {_FORMAT}. Give the store a file of "
                "its own"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, full, not writable, no such directory
            raise StoreError(
                f"the user store {self.path} cannot be used: {error}. Check that its directory exists and is "
                "writable, that the disk has room, and that no process holds the file for longer than "
                f"{self._busy_seconds:g} s"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"the user store {self.path} is damaged ({error}). Restore it from a backup; or move it away with its "
                "-wal and -shm files, and every user starts again as a new user"
            ) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._follow_fork()
        with self._read_lock, self._explained():
            self._require_open()
            yield self._reader

    @contextlib.contextmanager
    def _alone(self) -> Iterator[sqlite3.Connection]:
        """The connection that writes."""
        self._follow_fork()
        with self._lock, self._explained():
            self._require_open()
            yield self._connection

    def _follow_fork(self) -> None:
        if self._pid != os.getpid():
            # A forked child must neither use nor close the parent's connections: SQLite's locks are not inherited.
            self._of_parents += [self._connection, self._reader]
            self._connect()

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError(f"the user store {self.path} was closed; open it again")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._alone() as connection, _transaction(connection):
            self._delete_expired(connection)
            yield connection

    def _write(self, connection: sqlite3.Connection, rows: Iterable[tuple[str, bytes]]) -> None:
        expires_at = None if self.ttl_seconds is None else time.time() + self.ttl_seconds
        connection.executemany(
            "INSERT INTO users VALUES (?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET record = excluded.record, expires_at = excluded.expires_at",
            [(key, record, expires_at) for key, record in rows],
        )

    def _delete_expired(self, connection: sqlite3.Connection) -> None:
        gone = connection.execute(
            "DELETE FROM users WHERE key IN (SELECT key FROM users WHERE expires_at <= ? LIMIT ?)",
            (time.time(), _EXPIRED_A_WRITE),
        )
        self._count_deletions(connection, gone.rowcount)

    def _count_deletions(self, connection: sqlite3.Connection, count: int) -> None:
        if count:
            connection.execute("UPDATE traces SET deletions = deletions + ?", (count,))

    def _clear_traces(self, deletions: int) -> None:
        """Rewrites the file and empties the log; `deletions` is what was counted before."""
        with self._alone() as connection:
            connection.execute("VACUUM")
            with self._read_lock:  # a read in this process would keep the log
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                raise StoreError(
                    f"the users are gone from {self.path}, but another process keeps reading an old state of it, so "
                    f"their bytes stay in {self.path}-wal. Call forget again"
                )
            # Not if someone deleted more in between: their bytes are not cleared yet.
            connection.execute("UPDATE traces SET deletions = 0 WHERE deletions = ?", (deletions,))


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise
