"""Lists of candidates with what was chosen from them: what rankers are fitted and judged on.

`end_to_end`: all test users; a target that the first stage missed counts as zero. `covered`: users with at least one
target in their list, and only those targets. Positives are never added to a list unless asked for, and then the label
says so.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import ITEM, RANK, SCORE, USER, validate_candidates
from reranker.data.splits import Fold
from reranker.data.user_rows import pairs_in
from reranker.errors import ConfigError, DataError
from reranker.fusion import Choices, InteractionStatistics
from reranker.fusion.statistics import interaction_statistics
from reranker.pipeline.proposing import fitted_on, lists_by
from reranker.protocols import CandidateGenerator
from reranker.types import IntArray, ItemId, UserId

ListProtocol = Literal["end_to_end", "covered"]
PROTOCOLS: tuple[ListProtocol, ...] = ("end_to_end", "covered")


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateLists:
    """Candidates of some users at one time, and what they chose next.

    Attributes:
        domain: name of the domain.
        users: whose lists these are; one without candidates has an empty list.
        candidates: (rows,) a validated candidates table.
        items: the item table.
        known: interactions before the choices: all that generator, statistics and prompts may see.
        held_out: distinct `user_id, item_id`: what was chosen.
        generator: fitted on `known`, but in `lean` lists; None when the table came from outside.
        learned: statistics of `known`, where they were learned before; by default they are when first needed.
    """

    domain: str
    users: Sequence[UserId]
    candidates: pd.DataFrame
    items: pd.DataFrame
    known: pd.DataFrame
    held_out: pd.DataFrame
    generator: CandidateGenerator | None = None
    learned: InteractionStatistics | None = None

    @cached_property
    def list_index(self) -> IntArray:
        """(rows,) position in `users` of the row's user."""
        positions = {user: position for position, user in enumerate(self.users)}
        codes, listed = pd.factorize(self.candidates[USER])
        return np.array([positions[user] for user in listed], dtype=np.int64)[codes]

    @cached_property
    def relevant(self) -> NDArray[np.bool_]:
        """(rows,) True where the candidate was chosen."""
        return pairs_in(self.candidates, self.held_out)

    @cached_property
    def n_relevant(self) -> IntArray:
        """(users,) items that each user chose, proposed or not."""
        counts = Counter(self.held_out[USER])
        return np.array([counts[user] for user in self.users], dtype=np.int64)

    @cached_property
    def n_found(self) -> IntArray:
        """(users,) chosen items that are in the list."""
        found: IntArray = np.bincount(self.list_index[self.relevant], minlength=len(self.users)).astype(np.int64)
        return found

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(users,) True where the list holds at least one chosen item."""
        return self.n_found > 0

    @cached_property
    def statistics(self) -> InteractionStatistics:
        """The fusion head's own statistics, learned from `known` only, histories included."""
        return self.learned or self._learned()

    def _learned(self) -> InteractionStatistics:
        return interaction_statistics(self.known, self.items, self.generator)

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """(rows, n_columns) interaction features of `statistics`, those of own columns and own vectors behind them."""
        return self.statistics.features(self.candidates)

    @cached_property
    def is_new(self) -> NDArray[np.bool_]:
        """(rows,) True where nobody chose the candidate before."""
        return self.statistics.nobody_chose(self.candidates)

    @cached_property
    def n_known(self) -> IntArray:
        """(users,) interactions known of each user."""
        return self.statistics.n_known(self.users)

    @property
    def first_stage_rank(self) -> IntArray:
        """(rows,) 1-based rank in the list that came in."""
        return self.candidates[RANK].to_numpy(dtype=np.int64)

    @property
    def choices(self) -> Choices:
        """What a ranker is fitted on."""
        return Choices(
            features=self.features,
            list_index=self.list_index,
            chosen=self.relevant,
            first_stage_rank=self.first_stage_rank,
            n_relevant=self.n_relevant,
            n_known=self.n_known,
            users=self.users,
            columns=self.statistics.columns,
        )

    def lean(self, generator: CandidateGenerator) -> Self:
        """The same lists with no more than `fit` needs: features as they are, and statistics without pairs of items.

        Args:
            generator: that is not fitted, in place of the one that is.
        """
        part = replace(self, generator=generator, learned=self.statistics.without_pairs())
        vars(part)["features"] = self.features
        return part

    def only_own(self, columns: bool, vectors: bool) -> Self:
        """The same lists with features of the user's own columns and vectors, or without."""
        statistics = self.statistics
        before = len(statistics.interaction_columns)
        behind = before + (0 if statistics.own is None else len(statistics.own.words))
        features = [self.features[:, : behind if columns else before]]
        statistics = statistics if columns else replace(statistics, own=None)
        if vectors:
            features.append(self.features[:, behind:])
        else:
            statistics = replace(statistics, own_vectors=None)
        part = replace(self, learned=statistics)
        vars(part)["features"] = np.concatenate(features, axis=1)
        return part

    def only(self, numbers: IntArray) -> "CandidateLists":
        """The lists at these positions in `users`, ascending, and no other users."""
        rows = np.flatnonzero(np.isin(self.list_index, numbers))
        part = CandidateLists(
            domain=self.domain,
            users=[self.users[number] for number in numbers.tolist()],
            candidates=self.candidates.iloc[rows].reset_index(drop=True),
            items=self.items,
            known=self.known,
            held_out=self.held_out,
            generator=self.generator,
            learned=self.statistics,
        )
        vars(part)["features"] = self.features[rows]  # the same bits, which another table would not promise
        return part


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldLists(CandidateLists):
    """The candidates of a fold's test users, the same for every system.

    Attributes:
        fold: where they come from; gives `domain`, `users`, `items`, `known` and `held_out`.
        n: how many candidates were asked for per user.
        injected: True when missed targets were put in: such results are not comparable with others.
    """

    fold: Fold
    n: int
    injected: bool = False
    domain: str = field(init=False)
    users: Sequence[UserId] = field(init=False)
    items: pd.DataFrame = field(init=False)
    known: pd.DataFrame = field(init=False)
    held_out: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        of_fold = {
            "domain": self.fold.domain,
            "users": self.fold.users,
            "items": self.fold.items,
            "known": self.fold.train,
            "held_out": self.fold.held_out,
        }
        for name, value in of_fold.items():
            object.__setattr__(self, name, value)
        new_users = ~self.candidates[USER].isin(self.fold.users).to_numpy()
        if new_users.any():
            first = self.candidates[USER].iloc[int(np.flatnonzero(new_users)[0])]
            raise DataError(
                f"table 'candidates': {int(new_users.sum())} rows are for users outside the test fold, first "
                f"{first!r}; keep the fold's users only"
            )

    def _learned(self) -> InteractionStatistics:
        return super()._learned().with_vectors(self.fold.item_vectors)

    def without_vectors(self) -> "FoldLists":
        """The same lists of a fold without item vectors."""
        learned = replace(self.statistics, own_vectors=None)
        return replace(self, fold=replace(self.fold, item_vectors=None), learned=learned)

    def of_fold(self, fold: Fold) -> "FoldLists":
        """The same candidates in a changed fold: statistics are learned from it, and have the columns of these."""
        return replace(self, fold=fold).with_columns_of(self.statistics)

    def with_columns_of(self, other: InteractionStatistics) -> "FoldLists":
        """The same lists, whose statistics are learned from the fold with the own columns and vectors that others have.

        Args:
            other: of another fold of the same data.
        """
        fold = self.fold if other.own_vectors is not None else replace(self.fold, item_vectors=None)
        lists = replace(self, fold=fold, learned=None)
        if other.own is None:
            return lists
        return replace(lists, learned=lists.statistics.with_own(other.own.columns, fold.items, other.own.users))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the candidates, the targets and all that a system can know of users and items."""
        digest = hashlib.sha256(f"{self.fold.domain}|{self.fold.split}|{self.n}|{self.injected}".encode())
        for table in (self.candidates, self.fold.held_out, self.fold.train, self.fold.history, self.fold.items):
            for name in table:
                digest.update(f"\x1e{name}\x1f".encode())
                digest.update("\x1f".join(map(repr, table[name].tolist())).encode())
        if (vectors := self.fold.item_vectors) is not None:
            digest.update(repr(list(vectors.ids)).encode() + vectors.values.tobytes())
        return digest.hexdigest()

    def label(self, protocol: ListProtocol) -> str:
        """Name of the protocol in results."""
        return f"{protocol}+injected" if self.injected else protocol

    def of_users(self, kept: NDArray[np.bool_]) -> "FoldLists":
        """The lists of some users, (users,) True to keep; the others stay in the fold, with an empty list."""
        return self._cut(self.candidates[kept[self.list_index]], self.n)

    def top(self, n: int) -> "FoldLists":
        """The first n candidates of every list."""
        return self._cut(self.candidates[self.candidates[RANK] <= n], n)

    def _cut(self, rows: pd.DataFrame, n: int) -> "FoldLists":
        """Lists with these candidates; the statistics, which only the fold decides, are not learned again."""
        learned = self.statistics if "statistics" in vars(self) else self.learned
        return replace(self, candidates=rows.reset_index(drop=True), n=n, learned=learned)


def list_lengths(text: str) -> tuple[int, ...]:
    """List lengths from "20,50,100".

    Raises:
        ConfigError: not numbers, or below 2: a list of one has one order.
    """
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"list lengths must be numbers separated by commas, got {text!r}") from error
    if min(lengths) < 2:
        raise ConfigError(f"list lengths must be 2 or more, got {text!r}")
    return lengths


def propose(fold: Fold, generator: CandidateGenerator, n: int, inject: bool = False) -> FoldLists:
    """Lists by a fresh copy of `generator`, fitted on the fold's training part and nothing else.

    In a fold with cold items, which no candidate generator can propose, half of every list is cold items: the same
    random ones for every user, after the first stage's own. Where lists hold new items only, they are those of
    `among_new_items`.

    Args:
        inject: put missed targets at the end of the list, in place of the last candidates. Labelled in every result.
    """
    own = n - n // 2 if fold.cold_items else n
    fitted = fitted_on(generator, fold.train)
    if fold.only_new:
        return FoldLists(
            fold=fold, candidates=among_new_items(fold.held_out, fold.cold_items, n, fold.seed), n=n, generator=fitted
        )
    table = lists_by(fitted, fold.train, fold.users, own, repeats=fold.signals.allows_repeats)
    if fold.cold_items:
        table = table[~table[ITEM].isin(fold.cold_items)]  # where the generator has places of its own for new items
        table = validate_candidates(_with_cold_items(table, fold, n - own))
    if inject:
        table = _with_targets(table, fold, n)
    return FoldLists(fold=fold, candidates=table, n=n, generator=fitted, injected=inject)


def among_new_items(chosen: pd.DataFrame, new: Sequence[ItemId], n: int, seed: int = 0) -> pd.DataFrame:
    """A list a user: the new item that the user chose among n - 1 others, in a random order.

    Args:
        chosen: `user_id, item_id`, a row a user.
        new: the new items; all of them where there are fewer than n.
        n: length of a list.
        seed: of what is drawn.
    """
    rng, n = np.random.default_rng(seed), min(n, len(new))
    rows = []
    for user, target in chosen[[USER, ITEM]].itertuples(index=False):
        others = [item for item in new if item != target]
        drawn = [target, *(others[place] for place in rng.permutation(len(others))[: n - 1])]
        rows += [(user, drawn[place], rank + 1) for rank, place in enumerate(rng.permutation(n))]
    return validate_candidates(pd.DataFrame(rows, columns=[USER, ITEM, RANK]))


def _with_cold_items(table: pd.DataFrame, fold: Fold, n: int) -> pd.DataFrame:
    drawn = np.random.default_rng(fold.seed).permutation(len(fold.cold_items))[:n]
    pool = [fold.cold_items[position] for position in drawn]
    users = table[USER].drop_duplicates()
    lowest = table.groupby(USER, sort=False)[SCORE].min()
    longest = int(table[RANK].max())
    extra = pd.DataFrame(
        {
            USER: np.repeat(users.to_numpy(), len(pool)),
            ITEM: pd.Series(pool * len(users), dtype=table[ITEM].dtype),
            RANK: np.tile(np.arange(len(pool)) + longest + 1, len(users)),
        }
    )
    extra[SCORE] = extra[USER].map(lowest)
    return pd.concat([table, extra[table.columns]], ignore_index=True)


def _with_targets(table: pd.DataFrame, fold: Fold, n: int) -> pd.DataFrame:
    missed = fold.held_out[~pairs_in(fold.held_out, table)]
    if missed.empty:
        return table
    room = n - missed.groupby(USER, sort=False).size()
    limit = table[USER].map(room).fillna(n).to_numpy()
    kept = table[table[RANK].to_numpy() <= limit]
    extra = missed.assign(rank=missed.groupby(USER, sort=False).cumcount() + n + 1)
    extra[SCORE] = extra[USER].map(table.groupby(USER, sort=False)[SCORE].min()).fillna(0.0)
    return validate_candidates(pd.concat([kept, extra[table.columns]], ignore_index=True))
