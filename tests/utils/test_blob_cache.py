import logging
import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from reranker.utils.blob_cache import BlobCache

MIB = 1 << 20


def cache(tmp_path: Path, most_bytes: int = 64 * MIB) -> BlobCache:
    return BlobCache(tmp_path / "folder" / "blobs.sqlite", most_bytes)


def numbered(begin: int, end: int, size: int = 100) -> dict[bytes, bytes]:
    return {f"key {number}".encode(): number.to_bytes(4, "big") * (size // 4) for number in range(begin, end)}


def test_values_come_back_in_another_object(tmp_path: Path) -> None:
    values = numbered(0, 1200)  # more than one statement asks for
    cache(tmp_path).put(values)
    assert cache(tmp_path).get([*values, b"never put"]) == values


def test_nothing_is_made_by_asking(tmp_path: Path) -> None:
    assert cache(tmp_path).get([b"key"]) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_size_stays_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    kept = cache(tmp_path, MIB)
    for begin in range(0, 4000, 500):
        kept.put(numbered(begin, begin + 500, size=1000))
    assert kept.path.stat().st_size < 1.6 * MIB  # a batch beyond, whose pages serve again
    newest = numbered(3900, 4000, size=1000)
    assert kept.get(list(newest)) == newest
    assert kept.get(list(numbered(0, 100))) == {}


def test_what_was_used_lately_outlives_what_was_put_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = cache(tmp_path, MIB)
    old, day = numbered(0, 100, size=1000), 1000
    monkeypatch.setattr("reranker.utils.blob_cache._today", lambda: day)
    kept.put(old)
    kept.put(numbered(100, 600, size=1000))
    day = 1001
    assert kept.get(list(old)) == old
    kept.put(numbered(600, 1100, size=1000))
    assert kept.get(list(old)) == old
    assert len(kept.get(list(numbered(100, 600)))) < 500


def test_a_damaged_value_is_dropped_and_can_be_put_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept, values = cache(tmp_path), numbered(0, 3)
    kept.put(values)
    database = sqlite3.connect(kept.path)
    database.execute("UPDATE kept SET value = zeroblob(104) WHERE key = ?", (b"key 1",))
    database.commit()
    database.close()
    whole = {key: value for key, value in values.items() if key != b"key 1"}
    assert kept.get(list(values)) == whole
    assert "1 entries" in caplog.text
    kept.put({b"key 1": values[b"key 1"]})
    assert kept.get(list(values)) == values


@pytest.mark.parametrize("how", ["no database", "pages"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    kept, values = cache(tmp_path), numbered(0, 2000)
    kept.put(values)
    content = bytearray(kept.path.read_bytes())
    if how == "no database":
        content[:] = b"no database" * 100
    else:
        content[4096:] = bytes(len(content) - 4096)
    kept.path.write_bytes(content)
    assert kept.get(list(values)) == {}
    assert "begun anew" in caplog.text
    kept.put(values)
    assert kept.get(list(values)) == values


def test_without_a_place_it_is_empty_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder").write_text("a file where the folder should be")
    kept = cache(tmp_path)
    with caplog.at_level(logging.WARNING):
        kept.put(numbered(0, 2))
        kept.put(numbered(0, 2))
    assert kept.get([b"key 0"]) == {}
    assert caplog.text.count("nothing is kept there") == 1


def _fill(path: Path, begin: int) -> None:
    kept = BlobCache(path, 64 * MIB)
    for start in range(begin, begin + 1000, 50):
        kept.put(numbered(start, start + 50))
        assert kept.get(list(numbered(start, start + 50))) == numbered(start, start + 50)


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context, path = multiprocessing.get_context("spawn"), tmp_path / "blobs.sqlite"
    processes = [context.Process(target=_fill, args=(path, begin)) for begin in (0, 500)]  # half of it the same
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert BlobCache(path, 64 * MIB).get(list(numbered(0, 1500))) == numbered(0, 1500)
