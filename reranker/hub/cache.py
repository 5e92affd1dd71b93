"""Where fetched things live, and how they get there whole: one lock a thing, a partial directory, one rename."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from reranker.errors import ModelError

CACHE_VARIABLE = "RERANKER_CACHE"
OFFLINE_VARIABLES = ("RERANKER_OFFLINE", "HF_HUB_OFFLINE")


def cache_dir() -> Path:
    """The directory that holds fetched models and data sets: $RERANKER_CACHE, else the user's cache directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_dir("reranker")).expanduser().absolute()


def is_offline(offline: bool | None = None) -> bool:
    """What the caller said, else whether RERANKER_OFFLINE or HF_HUB_OFFLINE is set to something that means yes."""
    if offline is not None:
        return offline
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in OFFLINE_VARIABLES)


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Returns `target`, a directory that `build` fills on the first call and never again.

    `build` works in a partial directory beside the target, which is renamed when it is complete: a killed process or a
    full disk leaves no target. A lock lets one process build while others wait and then find the result.

    Raises:
        ModelError: the disk refused; the partial directory is removed.
    """
    if target.is_dir():
        return target
    partial = target.with_name(f".partial-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.is_dir():
                return target
            shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
            partial.mkdir()
            try:
                build(partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"cannot write {target}: {error}. Free space there, or set {CACHE_VARIABLE} to another directory"
        ) from error
    return target
