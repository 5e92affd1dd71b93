import os
import time
from pathlib import Path

import pytest

from reranker.utils.atomic_io import _swapped, remove_leftovers, whole_file, whole_folder


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "keys.json", tmp_path / "keys.json"
    target.write_text("old")
    link.symlink_to(target)
    with whole_file(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and target.read_text() == "new"


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_takes_the_place_of_all_that_was_in_the_old_one(
    swaps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swaps:
        monkeypatch.setattr("reranker.utils.atomic_io._swapped", lambda one, other: False)
    path = tmp_path / "deep" / "bundle"
    for name in ("first", "second"):
        with whole_folder(path) as fresh:
            (fresh / name).write_text(name)
    assert [one.name for one in path.iterdir()] == ["second"]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_was_not_finished_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with whole_folder(path) as fresh:
        (fresh / "first").write_text("first")
    with pytest.raises(RuntimeError), whole_folder(path) as fresh:
        (fresh / "half").write_text("half")
        raise RuntimeError
    assert [one.name for one in path.iterdir()] == ["first"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle"
    with whole_folder(path) as fresh:
        (fresh / "first").write_text("first")
    rename = Path.rename
    monkeypatch.setattr("reranker.utils.atomic_io._swapped", lambda one, other: False)

    def refuses(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(OSError, match="no space"), whole_folder(path) as fresh:
        (fresh / "second").write_text("second")
    assert [one.name for one in path.iterdir()] == ["first"]


def test_something_stands_at_the_path_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, probe = tmp_path / "bundle", tmp_path / "probe"
    with whole_folder(path) as fresh:
        (fresh / "first").write_text("first")
    probe.mkdir()
    if not _swapped(probe, path):
        pytest.skip("this system cannot swap folders in one step")
    assert (probe / "first").exists()
    monkeypatch.setattr(Path, "rename", lambda self, target: pytest.fail("there is a moment without a folder"))
    with whole_folder(path) as fresh:
        (fresh / "second").write_text("second")
    assert [one.name for one in path.iterdir()] == ["second"]


def test_what_a_killed_process_left_beside_a_folder_goes_after_a_day(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    old, young, other = (tmp_path / name for name in (".bundle.a.tmp", ".bundle.b.tmp", ".bundles.c.tmp"))
    for left in (old, young, other):
        (left / "new").mkdir(parents=True)
    for left in (old, other):
        os.utime(left, (time.time() - 2 * 86400,) * 2)
    with whole_folder(path) as fresh:
        (fresh / "first").write_text("first")
    assert set(tmp_path.iterdir()) == {path, young, other}


def test_leftovers_are_removed_and_what_is_still_being_written_stays(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    old, young, other = tmp_path / "sub" / ".a.json.1.tmp", tmp_path / ".b.json.2.tmp", tmp_path / "c.json"
    for path in (old, young, other):
        path.touch()
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    remove_leftovers(tmp_path, 1800)
    assert not old.exists()
    assert young.exists()
    remove_leftovers(tmp_path)
    assert list(tmp_path.rglob("*.json*")) == [other]
