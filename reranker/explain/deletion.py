"""The deletion test: are the items of the history that an explanation names those that the ranking rests on?

For each user the candidate that stands first is explained. The named items of the history are deleted together, and
as many others of the same window, drawn at random, in another try; a faithful explanation names items whose deletion
moves the candidate down further (DeYoung et al. 2020, ERASER, "comprehensiveness").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.errors import DataError
from reranker.explain.history import HISTORY_ITEMS, ScoreHistories, T, centred, history_effects
from reranker.utils.statistics import Interval, mean_interval

DELETED = 3
"""Items of the history that are deleted at a time."""


@dataclass(frozen=True, kw_only=True)
class DeletionTest:
    """How far the first candidate falls when items of the history are deleted.

    Attributes:
        named: mean fall of its score, in log-odds against the list's mean, without the items that were named.
        others: the same without as many others.
        auc: chance that the named items move it down further than the others do; ties count half, 0.5 is chance.
        named_places, others_places: mean places that it falls.
        n_left_out: users whose history is too short to name items and have others beside them.
    """

    named: Interval
    others: Interval
    auc: Interval
    named_places: float
    others_places: float
    n_left_out: int = 0

    def __str__(self) -> str:
        return (
            f"deletion AUC {self.auc.mean:.3f} [{self.auc.low:.3f}, {self.auc.high:.3f}] on {self.auc.n} users: the "
            f"first candidate falls {self.named.mean:.3f} ({self.named_places:.1f} places) without the named items, "
            f"{self.others.mean:.3f} ({self.others_places:.1f} places) without as many others"
        )

    def record(self) -> dict[str, float]:
        """One flat record."""
        intervals = {"deletion_named": self.named, "deletion_others": self.others, "deletion_auc": self.auc}
        return {
            **{f"{name}_{key}": value for name, one in intervals.items() for key, value in one.to_dict().items()},
            "deletion_named_places": self.named_places,
            "deletion_others_places": self.others_places,
            "deletion_users": self.auc.n,
            "deletion_users_left_out": self.n_left_out,
        }


def deletion_test(
    lists: Sequence[tuple[ScoreHistories[T], Sequence[T]]],
    deleted: int = DELETED,
    most: int = HISTORY_ITEMS,
    seed: int = 0,
) -> DeletionTest:
    """Deletes the named items and as many others from each user's history.

    Args:
        lists: one user each: what scores the list under other histories, and the history, oldest first.
        deleted: items deleted at a time.
        most: newest items of the history among which both are chosen.
        seed: of the others and of the bootstrap.

    Raises:
        DataError: no user has as many as `2 * deleted` items.
    """
    rng = np.random.default_rng(seed)
    falls = []
    for score, history in lists:
        positions, effects = history_effects(score, history, most)
        if len(positions) < 2 * deleted:
            continue
        whole = score([history])
        chosen = named_and_others(positions, effects[:, int(np.argmax(whole[0]))], deleted, rng)
        kept = [[item for at, item in enumerate(history) if at not in gone] for gone in chosen]
        falls.append(falls_of_first(whole[0], score(kept)))
    return summarised(falls, len(lists) - len(falls), deleted, seed)


def named_and_others(
    positions: Sequence[int], effects: NDArray[np.float64], deleted: int, rng: np.random.Generator
) -> tuple[set[int], set[int]]:
    """Positions whose effects on a candidate are largest, and as many of the others, drawn at random.

    Args:
        positions: in the history.
        effects: (n_positions,) on the candidate.
        deleted: how many of each.
        rng: draws the others.
    """
    by_effect = [positions[at] for at in np.argsort(-effects, kind="stable")]
    named, rest = by_effect[:deleted], by_effect[deleted:]
    return set(named), {rest[at] for at in rng.choice(len(rest), deleted, replace=False)}


def falls_of_first(whole: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float, int, int]:
    """How far the first candidate falls: its score without the named items and without others, and its places.

    Args:
        whole: (n_candidates,) scores under the whole history.
        after: (2, n_candidates) without the named items, and without others.
    """
    before, changed = centred(whole[None]), centred(after)
    first = int(np.argmax(whole))
    falls = before[0, first] - changed[:, first]
    places = _place(changed, first) - _place(before, first)
    return float(falls[0]), float(falls[1]), int(places[0]), int(places[1])


def summarised(
    falls: Sequence[tuple[float, float, int, int]], left_out: int, deleted: int = DELETED, seed: int = 0
) -> DeletionTest:
    """The test from each user's `falls_of_first`.

    Raises:
        DataError: there is none.
    """
    if not falls:
        raise DataError(
            f"deletion test: none of {left_out} users has {2 * deleted} items in the history, {deleted} to name and "
            f"{deleted} others; give users with longer histories"
        )
    named, others, named_places, others_places = np.array(falls, dtype=np.float64).T
    wins = np.where(named > others, 1.0, np.where(named == others, 0.5, 0.0))
    return DeletionTest(
        named=mean_interval(named, seed=seed),
        others=mean_interval(others, seed=seed),
        auc=mean_interval(wins, seed=seed),
        named_places=float(named_places.mean()),
        others_places=float(others_places.mean()),
        n_left_out=left_out,
    )


def _place(scores: NDArray[np.float64], candidate: int) -> NDArray[np.int64]:
    """(n,) how many candidates score higher in each of (n, n_candidates)."""
    return np.asarray((scores > scores[:, [candidate]]).sum(axis=1), dtype=np.int64)
