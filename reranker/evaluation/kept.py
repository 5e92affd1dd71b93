"""Finished scores on disk, so that a run that was killed goes on where it stopped.

A file is used again only when everything that the scores rest on is the same, by content: lists, histories, items,
fitting lists, the system with its seed and settings, and the code.
"""

import hashlib
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from reranker.pipeline.lists import FoldLists
from reranker.utils.atomic_io import whole_file

logger = logging.getLogger(__name__)

SCORES_VERSION = 10
"""Raised whenever code that changes any system's scores changes: prompts, scorers, features, fitting."""

READINGS_VERSION = 4
"""Raised whenever code that changes what the model says of a list changes: prompts, scorers, engines."""

N_COSTS = 3
"""Numbers kept beside the scores: seconds of fitting, seconds of scoring, tokens."""


def score_path(out: Path, lists: FoldLists, system: str, seed: int) -> Path:
    """Where the scores of one run are kept."""
    label = f"{lists.fold.domain}.{lists.fold.split}.{lists.n}{'i' if lists.injected else ''}.{system}"
    return out / "scores" / f"{quote(label, safe='')}.{seed}.npz"


def score_key(lists: FoldLists, fitting: Sequence[FoldLists], system: str, seed: int, settings: str) -> str:
    """Hash of everything that the scores rest on.

    Args:
        settings: any text that changes when the system's settings do.
    """
    parts = (
        version("reranker"),
        SCORES_VERSION,
        system,
        seed,
        settings,
        *(one.fingerprint for one in (lists, *fitting)),
    )
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def reading_path(out: Path, lists: FoldLists, key: str) -> Path:
    """Where one reading is kept."""
    return out / f"{quote(lists.fold.domain, safe='')}.{lists.n}.{key[:16]}.npz"


def reading_key(lists: FoldLists, settings: str) -> str:
    """Hash of everything that a reading of these lists rests on; `settings` names model, engine and prompts."""
    parts = version("reranker"), READINGS_VERSION, settings, lists.fingerprint
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def write_scores(path: Path, key: str, scores: NDArray[np.float64], costs: Sequence[float]) -> None:
    """No later run ever sees half of it."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, scores=scores, key=np.array(key), costs=np.asarray(costs, dtype=np.float64))


def read_scores(path: Path, key: str) -> tuple[NDArray[np.float64], list[float]] | None:
    """The scores and costs under this key; None when there are none, or none that can be used."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                logger.info("%s belongs to other data, settings or code; computed again", path)
                return None
            scores, costs = kept["scores"], kept["costs"].tolist()
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        logger.warning("%s cannot be read (%s); computed again", path, error)
        return None
    return (scores, costs) if len(costs) == N_COSTS else None
