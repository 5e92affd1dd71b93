"""The SQLite store: the contract, and what is particular to a file."""

import contextlib
import multiprocessing
import random
import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from reranker.errors import StoreError
from reranker.stores import SqliteUserStore
from tests.contracts.stores import StoreContract, state


class TestSqlite(StoreContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return str(tmp_path / "users.sqlite")


def bytes_on_disk(path: Path) -> bytes:
    return b"".join(part.read_bytes() for part in sorted(path.parent.glob(f"{path.name}*")))


def busy_store(path: Path, users: int, rounds: int = 5) -> tuple[SqliteUserStore, list[str]]:
    """A store whose rows grew in random order, so that SQLite had to split and merge pages.

    Each user's items are named after them: no byte string of one user belongs to another.
    """
    chance = random.Random(0)
    names = [f"U{chance.randrange(10**9):09d}Z" for _ in range(users)]
    items: dict[str, list[tuple[str, float | None]]] = {name: [] for name in names}
    store = SqliteUserStore(path)
    for _ in range(rounds):
        chance.shuffle(names)
        for name in names:
            items[name] += [(f"item-of-{name}", None)] * chance.choice([0, 1, 1, 2, 5, 40])
        store.put(
            state(name, interactions=tuple(items[name]), vector=np.frombuffer(name.encode() * 4, dtype="<f4"))
            for name in names
        )
    return store, names


def test_forget_leaves_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    store, names = busy_store(path, 3000)
    gone = names[::10]
    assert all(name.encode() in bytes_on_disk(path) for name in gone)
    assert store.forget(gone) == len(gone)
    left = bytes_on_disk(path)  # while the store is open: the log and the shared memory are there
    assert (tmp_path / "users.sqlite-wal").exists()
    assert not [name for name in gone if name.encode() in left or name[:8].encode() in left]
    assert len(store.get(names)) == len(names) - len(gone)
    store.close()


def test_forget_waits_for_no_reader_of_an_old_state(tmp_path: Path) -> None:
    """While another connection reads an old state, its bytes cannot go: that is said, and calling again mends it."""
    path = tmp_path / "users.sqlite"
    store, names = busy_store(path, 20, rounds=1)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM users").fetchone()
    store._connection.execute("PRAGMA busy_timeout = 50")  # the wait itself is SQLite's
    with pytest.raises(StoreError, match="Call forget again"):
        store.forget(names[:1])
    assert store.get(names[:1]) == {}
    reader.execute("COMMIT")
    reader.close()
    assert store.forget(names[:1]) == 0
    assert names[0].encode() not in bytes_on_disk(path)
    store.close()


def test_expired_users_leave_the_file(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    store = SqliteUserStore(path, ttl_seconds=0.05)
    store.put(state(f"expiring-{number}") for number in range(10))
    time.sleep(0.1)
    store.put([state("other")])
    with contextlib.closing(sqlite3.connect(path)) as rows:
        assert rows.execute("SELECT count(*) FROM users").fetchone() == (1,)
    assert store.forget(["expiring-1"]) == 0
    assert b"expiring-" not in bytes_on_disk(path)
    store.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    path.write_bytes(b"not a database, certainly not" * 100)
    with pytest.raises(StoreError, match=r"users\.sqlite is damaged .*backup"):
        SqliteUserStore(path)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    store, names = busy_store(path, 500, rounds=1)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged .*backup"):
        SqliteUserStore(path).get(names)


def test_a_damaged_record_names_its_user(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    store = SqliteUserStore(path)
    store.put([state("whole"), state("hurt")])
    with contextlib.closing(sqlite3.connect(path)) as rows, rows:
        record = bytearray(rows.execute("SELECT record FROM users WHERE key = ?", ('"hurt"',)).fetchone()[0])
        record[-3] ^= 1
        rows.execute("UPDATE users SET record = ? WHERE key = ?", (bytes(record), '"hurt"'))
    with pytest.raises(StoreError, match=r"'hurt' is damaged.*forget"):
        store.get(["whole", "hurt"])
    with pytest.raises(StoreError, match="'hurt' is damaged"):
        store.append("hurt", [("a", None)])
    assert set(store.get(["whole"])) == {"whole"}
    assert store.forget(["hurt"]) == 1
    store.close()


def test_a_truncated_record(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    store = SqliteUserStore(path)
    store.put([state("u")])
    with contextlib.closing(sqlite3.connect(path)) as rows, rows:
        rows.execute("UPDATE users SET record = substr(record, 1, length(record) - 5)")
    with pytest.raises(StoreError, match="damaged"):
        store.get(["u"])
    store.close()


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(StoreError, match="file of its own"):
        SqliteUserStore(path)
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT name FROM sqlite_schema").fetchall() == [("mine",)]


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="directory exists"):
        SqliteUserStore(tmp_path / "nowhere" / "users.sqlite")


def test_a_copied_file_is_the_whole_store(tmp_path: Path) -> None:
    """Closing moves the log into the file: a bundle can carry it."""
    store = SqliteUserStore(tmp_path / "users.sqlite")
    store.put([state("u")])
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["users.sqlite"]
    shutil.copy(tmp_path / "users.sqlite", tmp_path / "copy.sqlite")
    copy = SqliteUserStore(tmp_path / "copy.sqlite")
    assert list(copy.user_ids()) == ["u"]
    copy.close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_store_goes_on_in_a_forked_child(tmp_path: Path) -> None:
    store = SqliteUserStore(tmp_path / "users.sqlite")
    store.append("u", [("parent", None)])
    child = multiprocessing.get_context("fork").Process(target=lambda: store.append("u", [("child", None)]))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    store.append("u", [("parent again", None)])
    assert [item for item, _ in store.get(["u"])["u"].interactions] == ["parent", "child", "parent again"]
    store.close()
