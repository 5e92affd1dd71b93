"""Versions of a bundle side by side: B/versions/000001, B/versions/000002, ..., and B/current, a link to one of them.

A version is a bundle and never changes; what changes is the link, in one step. A plain bundle, as `fit` writes it, has
no versions; the first refresh turns it into the first one.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reranker.errors import BundleError
from reranker.utils.atomic_io import whole_folder

CURRENT, VERSIONS = "current", "versions"
KEPT = 7
"""Versions that stay by default."""

_LOCK = ".lock"
_DIGITS = 6


def is_versioned(directory: Path) -> bool:
    """Whether the folder holds versions of a bundle."""
    held = directory / VERSIONS
    return (directory / CURRENT).is_symlink() and held.is_dir() and not held.is_symlink()


def current_version(directory: Path) -> Path:
    """The folder of the bundle that is served: the directory itself where it holds no versions.

    Raises:
        BundleError: `current` points out of the directory.
    """
    if not is_versioned(directory):
        return directory
    link = (directory / CURRENT).readlink()
    target = directory / link
    if target.parent != directory / VERSIONS or not target.name.isdigit() or target.is_symlink():
        raise BundleError(
            f"{directory / CURRENT} points to {str(link)!r}, which is no version of this bundle: point "
            f"it to a folder in {VERSIONS}/"
        )
    return target


def versions(directory: Path) -> list[str]:
    """Names of the versions, oldest first; none of a plain bundle."""
    if not is_versioned(directory):
        return []
    return sorted(one.name for one in (directory / VERSIONS).iterdir() if one.is_dir() and one.name.isdigit())


def add_version(directory: Path, write: Callable[[Path], None], keep: int = KEPT) -> Path:
    """Adds a version and makes it the current one; the oldest beyond `keep` are removed.

    Args:
        directory: holds versions, or is a plain bundle, which becomes the first version.
        write: fills an empty folder with a bundle; where it fails, nothing has changed.
        keep: versions that stay, the current one among them.

    Raises:
        BundleError: the disk refuses.
    """
    directory = directory.resolve()
    try:
        if not is_versioned(directory):
            _make_versioned(directory)
        with _locked(directory):
            known = versions(directory)
            name = f"{int(known[-1]) + 1 if known else 1:0{_DIGITS}d}"
            with whole_folder(directory / VERSIONS / name) as fresh:
                write(fresh)
            _point(directory, name)
            for old in [*known, name][: -max(1, keep)]:
                shutil.rmtree(directory / VERSIONS / old)
    except OSError as error:
        raise BundleError(f"cannot add a version to {directory}: {error}. The current one is untouched") from error
    return directory / VERSIONS / name


def rollback(directory: Path, to: str | None = None) -> tuple[str, str]:
    """Makes an earlier version the current one; returns the names of the one that was and the one that is.

    Args:
        directory: holds versions.
        to: name; by default the one before the current.

    Raises:
        BundleError: there is no such version, or none before.
    """
    directory = directory.resolve()
    known = versions(directory)
    if not known:
        raise BundleError(f"{directory} has no versions, so there is none to go back to: `reranker refresh` makes them")
    with _locked(directory):
        before = current_version(directory).name
        earlier = [name for name in known if name < before]
        target = (earlier[-1] if earlier else None) if to is None else to
        if target is None:
            raise BundleError(
                f"{directory}: {before} is the oldest version kept ({', '.join(known)}); name one with --to"
            )
        if target not in known:
            raise BundleError(f"{directory} has no version {target!r}; there are {', '.join(known)}")
        _point(directory, target)
    return before, target


def remove_others(directory: Path) -> list[str]:
    """Removes every version but the current one; returns their names. What was forgotten must not stand in old ones.

    Raises:
        BundleError: the disk refuses.
    """
    directory = directory.resolve()
    gone = []
    try:
        with _locked(directory):
            for name in versions(directory):
                if name != current_version(directory).name:
                    shutil.rmtree(directory / VERSIONS / name)
                    gone.append(name)
    except OSError as error:
        raise BundleError(f"{directory}: an old version cannot be removed: {error}. Remove it by hand") from error
    return gone


def _make_versioned(directory: Path) -> None:
    """A plain bundle becomes the first of its versions, in one step for whoever reads it."""
    first = f"{1:0{_DIGITS}d}"
    with whole_folder(directory) as fresh:
        (fresh / VERSIONS).mkdir()
        shutil.copytree(directory, fresh / VERSIONS / first, copy_function=_linked)
        (fresh / CURRENT).symlink_to(Path(VERSIONS) / first)


def _linked(source: str, target: str) -> str:
    """A second name of the file, or a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _point(directory: Path, name: str) -> None:
    temporary = directory / f".{CURRENT}.{uuid.uuid4().hex}"
    temporary.symlink_to(Path(VERSIONS) / name)
    temporary.replace(directory / CURRENT)


def _opened(path: str, flags: int) -> int:
    """No link is followed: what it points to is no part of the bundle."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process at a time changes versions; a lock of a killed one ends with it."""
    try:
        file = open(directory / _LOCK, "a", opener=_opened)  # noqa: SIM115
    except OSError as error:
        raise BundleError(f"{directory / _LOCK} cannot be opened: {error}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
