"""Values by key in one SQLite file that may be lost at any time: bounded, checked, and shared by processes."""

import logging
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 60.0  # for another process that writes; a batch takes milliseconds
_ASKED = 500  # keys a statement: SQLite takes 999 parameters in old builds
_KEPT_SHARE = 0.9  # of the bound, after the oldest went
_DAY = 86400
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL
)
"""


class BlobCache:
    """A bounded cache of bytes in a file.

    Nothing depends on it: where the file cannot be read or written, the cache is empty, and the log says so once. A
    value that is not what was written is dropped, and a file that is no database any more is begun anew. Any number of
    processes may use one file; a killed one leaves the batches it had put.

    Args:
        path: of the file; its folder is made when something is put.
        most_bytes: the file's size, about; beyond it, what was used longest ago goes (by days).
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self.most_bytes = most_bytes
        self._warned = False

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """key -> value, of the keys that are there and whole."""
        if not self.path.exists():
            return {}
        found: dict[bytes, bytes] = {}
        with self._tolerant("read"), self._opened() as database:
            today, old, damaged = _today(), list[bytes](), list[bytes]()
            for part in _batches(keys):
                marks = ",".join("?" * len(part))
                rows = database.execute(f"SELECT key, value, used FROM kept WHERE key IN ({marks})", part)
                for key, value, used in rows:
                    payload = value[4:]
                    if value[:4] != _checksum(key, payload):
                        damaged.append(key)
                        continue
                    found[key] = payload
                    if used < today:
                        old.append(key)
            if damaged:
                logger.warning("%d entries of %s are damaged and are made anew", len(damaged), self.path)
            if old or damaged:
                with suppress(sqlite3.OperationalError), database:  # a cache one may only read serves as well
                    database.execute("BEGIN IMMEDIATE")
                    database.executemany("UPDATE kept SET used = ? WHERE key = ?", [(today, key) for key in old])
                    database.executemany("DELETE FROM kept WHERE key = ?", [(key,) for key in damaged])
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keeps values, all of them or none; the oldest go where there are too many."""
        if not values:
            return
        with self._tolerant("written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._opened() as database:
                today = _today()
                rows = [(key, _checksum(key, value) + value, today) for key, value in values.items()]
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    database.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", rows)
                self._evict(database)

    def _evict(self, database: sqlite3.Connection) -> None:
        """Deletes what was used longest ago, and of that what came first, until the rest fits; pages are used again."""
        with database:
            database.execute("BEGIN IMMEDIATE")
            size = _used_bytes(database)
            if size <= self.most_bytes:
                return
            (count,) = database.execute("SELECT COUNT(*) FROM kept").fetchone()
            drop = int(count * (1 - _KEPT_SHARE * self.most_bytes / size)) + 1
            database.execute(
                "DELETE FROM kept WHERE rowid IN (SELECT rowid FROM kept ORDER BY used, rowid LIMIT ?)", (drop,)
            )
        logger.info("%d of %d entries of %s made room for newer ones", drop, count, self.path)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")  # a power cut may cost the file, which is begun anew then
            database.execute(_SCHEMA)
            yield database

    @contextmanager
    def _tolerant(self, done: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) in _DAMAGED:
                logger.warning("%s is damaged (%s) and is begun anew", self.path, error)
                with suppress(OSError):
                    self.path.unlink(missing_ok=True)
                    self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
            elif not self._warned:
                self._warned = True
                logger.warning("the cache %s cannot be %s, so nothing is kept there: %s", self.path, done, error)


def _used_bytes(database: sqlite3.Connection) -> int:
    page, pages, free = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    return int(page * (pages - free))


def _batches(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    keys = iter(keys)
    while part := list(islice(keys, _ASKED)):
        yield part


def _checksum(key: bytes, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(4, "little")


def _today() -> int:
    return int(time.time()) // _DAY
