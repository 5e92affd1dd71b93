"""Files and folders that are whole or not there, and checksums."""

import ctypes
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_TEMPORARY = ".tmp"
_LEFT_SECONDS = 86400.0
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well.

    The content is on the disk before the name is: fsync of the file, rename, fsync of the folder. After a crash `path`
    is the old file or the new one. A link stays one: the file that it names is replaced.
    """
    path = path.resolve() if path.is_symlink() else path
    # Not tempfile: its files are readable by their owner alone, and would stay so after the rename.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `path`, and of all that is in it, when the block ends well.

    Where it cannot, what stood there stays. A process that is killed leaves the old folder or the new one, and perhaps
    a temporary one that the next call removes after a day; where folders cannot be swapped (no Linux), nothing stands
    at `path` between two renames.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    for left in path.parent.glob(f"{glob.escape(prefix)}*{_TEMPORARY}"):
        if left.is_dir() and time.time() - left.stat().st_mtime > _LEFT_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=prefix, suffix=_TEMPORARY, dir=path.parent, ignore_cleanup_errors=True
    ) as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        yield fresh
        if not path.exists():
            fresh.rename(path)
        elif not _swapped(fresh, path):
            path.rename(old)
            try:
                fresh.rename(path)
            except OSError:
                old.rename(path)
                raise


def _swapped(one: Path, other: Path) -> bool:
    """Swaps two folders in one step where the system can: renameat2(2) with RENAME_EXCHANGE, which Python lacks."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def remove_leftovers(folder: Path, seconds: float = 0.0) -> None:
    """Removes the temporary files under `folder` that a killed process left, those as old as `seconds`."""
    for path in folder.rglob(f".*{_TEMPORARY}"):
        if path.is_dir():  # of `whole_folder`, which removes its own
            continue
        try:
            if time.time() - path.stat().st_mtime >= seconds:
                path.unlink()
        except FileNotFoundError:  # it was no leftover: a process that still writes has renamed it
            continue


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 through `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON through `whole_file`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; None where there is no file or it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def sha256(path: Path) -> str:
    """Hash of a file; "" where there is none."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
