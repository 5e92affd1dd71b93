import errno
import threading
import time
from pathlib import Path

import pytest

from reranker.errors import ModelError
from reranker.hub import cache_dir, is_offline
from reranker.hub.cache import build_once


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere"


def test_the_cache_is_the_users_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("RERANKER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir().name == "reranker"
    assert cache_dir().is_absolute()


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("True", True), ("yes", True), ("0", False), ("", False)])
def test_offline_variable(monkeypatch, value, expected):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("RERANKER_OFFLINE", value)
    assert is_offline() is expected
    assert is_offline(offline=not expected) is not expected


def test_a_directory_is_built_once(tmp_path):
    built: list[Path] = []

    def build(partial: Path) -> None:
        built.append(partial)
        (partial / "file").write_text("done")

    target = tmp_path / "deep" / "thing"
    assert build_once(target, build) == build_once(target, build) == target
    assert (target / "file").read_text() == "done"
    assert len(built) == 1


def test_a_failed_build_leaves_nothing_and_can_be_repeated(tmp_path):
    def fill_the_disk(partial: Path) -> None:
        (partial / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "thing"
    with pytest.raises(ModelError, match=r"No space left on device.*RERANKER_CACHE"):
        build_once(target, fill_the_disk)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    build_once(target, lambda partial: None)
    assert target.is_dir()


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / ".partial-thing").mkdir()
    (tmp_path / ".partial-thing" / "half").write_text("half")
    target = build_once(tmp_path / "thing", lambda partial: (partial / "whole").touch())
    assert [file.name for file in target.iterdir()] == ["whole"]


def test_two_at_once_build_one(tmp_path):
    built: list[Path] = []

    def build(partial: Path) -> None:
        built.append(partial)
        time.sleep(0.2)

    threads = [threading.Thread(target=build_once, args=(tmp_path / "thing", build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
