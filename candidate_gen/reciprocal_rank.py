"""Several candidate generators as one, by reciprocal rank fusion.

Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods" (2009).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from candidate_gen.backend import require_at_least
from candidate_gen.base import distinct_users
from candidate_gen.matrix import id_column
from candidate_gen.registry import load_generator
from candidate_gen.storage import read_stage, write_stage
from reranker.data.schema import ITEM, RANK, SCORE, USER
from reranker.errors import BundleError, ConfigError
from reranker.protocols import CandidateGenerator, ProposesNewItems
from reranker.types import ItemId, UserId


class ReciprocalRankFusion:
    """Score = Σ over the stages of 1 / (k + rank); an item that a stage does not list gets nothing from it.

    Each stage proposes n items, each item is listed once, and the best n remain; ties go to the earlier stage's order.
    A stage with reserved places takes no part in the fusion: its best that are not listed otherwise take the last ones.
    A user for whom no stage had anything left gets no rows.

    Args:
        stages: at least one candidate generator; any object of the `CandidateGenerator` protocol.
        k: how slowly the weight falls with the rank; 60 in the paper.
        reserved: share of a list's places for each stage, in 0..1, as for new items; by default no stage has any.

    Raises:
        ConfigError: no stages, something that is not a candidate generator, k < 0, or shares that leave nothing to the
            fusion.
    """

    name = "reciprocal_rank_fusion"

    def __init__(self, stages: Sequence[CandidateGenerator], k: float = 60, reserved: Sequence[float] = ()) -> None:
        if not stages:
            raise ConfigError("ReciprocalRankFusion needs at least one candidate generator, got none")
        for stage in stages:
            if not isinstance(stage, CandidateGenerator):
                raise ConfigError(f"ReciprocalRankFusion: {stage!r} is no candidate generator (see reranker.protocols)")
        require_at_least("ReciprocalRankFusion", 0, k=k)
        self.stages = list(stages)
        shares = [float(share) for share in reserved] or [0.0] * len(self.stages)
        if len(shares) != len(self.stages) or min(shares) < 0 or sum(shares) >= 1 or all(shares):
            raise ConfigError(
                f"ReciprocalRankFusion: reserved must be a share for each of the {len(self.stages)} stages, 0 for at "
                f"least one, and below 1 together; got {list(reserved)}"
            )
        self.k = k
        self.reserved = shares

    def clone(self) -> Self:
        """An unfitted copy: the same k, and a clone of every stage."""
        return type(self)([stage.clone() for stage in self.stages], self.k, self.reserved)

    def fit(self, interactions: pd.DataFrame) -> Self:
        """Fits every stage on the table. Returns self.

        Raises:
            DataError: the table breaks the interactions contract.
        """
        for stage in self.stages:
            stage.fit(interactions)
        return self

    @property
    def part_names(self) -> list[str]:
        """A name for the columns of each stage: its own, with a number where an earlier stage has the same."""
        names: list[str] = []
        for stage in self.stages:
            same = sum(other.name == stage.name for other in self.stages[: len(names)])
            names.append(f"{stage.name}_{same + 1}" if same else stage.name)
        return names

    def recommend(self, user_ids: Iterable[UserId], n: int, exclude_seen: bool = True) -> pd.DataFrame:
        """A candidates table `user_id, item_id, score, rank` (1-based), at most n rows a user, users as given.

        Behind them stand each stage's own score and rank of the item (`als_score`, `als_rank`), missing where the stage
        does not list it among its n.

        Raises:
            ConfigError: not fitted, n < 1, or `user_ids` is one string.
        """
        users = distinct_users(user_ids, n)
        totals: dict[UserId, dict[ItemId, float]] = {user: {} for user in users}
        places: list[tuple[int, dict[UserId, list[ItemId]]]] = []
        parts: list[pd.DataFrame] = []
        for stage, share in zip(self.stages, self.reserved, strict=True):
            proposed = stage.recommend(users, n, exclude_seen)
            parts.append(proposed)
            if share:
                own: dict[UserId, list[ItemId]] = {user: [] for user in users}
                for user, item in zip(proposed[USER].tolist(), proposed[ITEM].tolist(), strict=True):
                    own[user].append(item)
                places.append((round(share * n), own))
                continue
            weights = 1.0 / (self.k + proposed[RANK].to_numpy(dtype=np.float64))
            for user, item, weight in zip(
                proposed[USER].tolist(), proposed[ITEM].tolist(), weights.tolist(), strict=True
            ):
                totals[user][item] = totals[user].get(item, 0.0) + weight
        # Python's sort is stable and dicts keep their order: equal scores stay in the order of the stages.
        ranked = {user: sorted(items.items(), key=lambda pair: -pair[1]) for user, items in totals.items()}
        best = [
            _with_reserved(listed, [(count, own[user]) for count, own in places], n) for user, listed in ranked.items()
        ]
        lengths = [len(listed) for listed in best]
        fused = pd.DataFrame(
            {
                USER: id_column(users).take(np.repeat(np.arange(len(users)), lengths)).reset_index(drop=True),
                ITEM: id_column([item for listed in best for item, _ in listed]),
                SCORE: np.asarray([score for listed in best for _, score in listed], dtype=np.float64),
                RANK: np.asarray([rank for length in lengths for rank in range(1, length + 1)], dtype=np.int64),
            }
        )
        return fused.assign(**_of_parts(fused, dict(zip(self.part_names, parts, strict=True))))

    @property
    def takes_new_items(self) -> bool:
        """Whether a stage proposes new items and takes them by rows of the item table."""
        return bool(self._of_new)

    @property
    def new_item_ids(self) -> list[ItemId]:
        """The items that nobody chose and that a stage may propose."""
        return list(dict.fromkeys(item for stage in self._of_new for item in stage.new_item_ids))

    def add_items(self, items: pd.DataFrame) -> int:
        """Adds items that came after `fit` to the stages that propose new items. Returns how many are new.

        Args:
            items: an item table.

        Raises:
            ConfigError: not fitted, or no stage proposes new items by an item table.
            DataError: the table breaks its contract.
        """
        if not self._of_new:
            raise ConfigError(
                "no stage of this ReciprocalRankFusion proposes new items by their texts: make it by "
                "make_generator(items=..., new_share=0.1)"
            )
        return max(stage.add_items(items) for stage in self._of_new)

    @property
    def _of_new(self) -> list[ProposesNewItems]:
        return [stage for stage in self.stages if isinstance(stage, ProposesNewItems) and stage.takes_new_items]

    def save(self, directory: Path) -> None:
        """Writes generator.json and generator.npz, and each stage into a numbered folder beside them, never pickle.

        Raises:
            ConfigError: not fitted.
            DataError: an id is of a type that cannot be stored.
        """
        directory = Path(directory)
        for index, stage in enumerate(self.stages):
            stage.save(directory / str(index))
        header: dict[str, Any] = {
            "class": type(self).__name__,
            "settings": {"k": self.k, "reserved": self.reserved},
            "stages": [str(index) for index in range(len(self.stages))],
        }
        write_stage(directory, header, {})

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Reads what `save` wrote; stages of your own must be registered (`register_generator`).

        Raises:
            BundleError: a file is missing, damaged, or holds a class that is not known.
        """
        directory = Path(directory)
        header, _ = read_stage(directory, cls.__name__)
        try:
            settings, count = header["settings"], len(header["stages"])
            parts = [load_generator(directory / str(index)) for index in range(count)]
            return cls(parts, settings["k"], settings.get("reserved", ()))
        except (KeyError, TypeError, ConfigError) as error:
            raise BundleError(f"the candidate generator in {directory} is damaged: {error!r}. Save it again") from error


def _with_reserved(
    ranked: list[tuple[ItemId, float]], places: Sequence[tuple[int, Sequence[ItemId]]], n: int
) -> list[tuple[ItemId, float]]:
    """The n best, of which the last places go to those who have some reserved, below the score of the others.

    Args:
        ranked: fused items and scores, best first.
        places: how many places, and the items that want them, best first.
    """
    listed = {item for item, _ in ranked[: n - sum(count for count, _ in places)]}
    added: list[ItemId] = []
    for count, items in places:
        fresh = [item for item in items if item not in listed][:count]
        listed.update(fresh)
        added += fresh
    kept = ranked[: n - len(added)]
    lowest = kept[-1][1] if kept else 1.0
    return [pair for pair in kept if pair[0] not in set(added)] + [
        (item, lowest / (place + 1)) for place, item in enumerate(added, start=1)
    ]


def _of_parts(fused: pd.DataFrame, parts: Mapping[str, pd.DataFrame]) -> dict[str, pd.Series]:
    """Columns of `fused`: score and rank that each part gives the same user and item, missing where it has no row."""
    tables = [fused, *parts.values()]
    ends = np.cumsum([len(table) for table in tables])[:-1]
    ids = {name: np.concatenate([table[name].to_numpy(dtype=object) for table in tables]) for name in (USER, ITEM)}
    (users, _), (items, distinct) = pd.factorize(ids[USER]), pd.factorize(ids[ITEM])
    keys = np.split(users.astype(np.int64) * max(len(distinct), 1) + items, ends)
    found: dict[str, pd.Series] = {}
    for (name, part), mine in zip(parts.items(), keys[1:], strict=True):
        order = np.argsort(mine)
        places = np.searchsorted(mine, keys[0], sorter=order)
        rows = np.append(order, -1)[places]  # -1 beyond the last
        there = rows >= 0
        there[there] = mine[rows[there]] == keys[0][there]
        scores = np.full(len(fused), np.nan)
        scores[there] = part[SCORE].to_numpy(dtype=np.float64)[rows[there]]
        ranks = pd.Series(pd.NA, index=fused.index, dtype="Int64")
        ranks[there] = part[RANK].to_numpy()[rows[there]]
        found |= {f"{name}_{SCORE}": pd.Series(scores, index=fused.index), f"{name}_{RANK}": ranks}
    return found
