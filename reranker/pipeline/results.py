"""From scores to ranked lists, and what came with them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.catalog import Catalog
from reranker.data.item_lists import Candidates, ItemLists
from reranker.data.schema import (
    ITEM,
    LOG_ODDS,
    OF_FIRST_STAGE,
    RANK,
    RANKING_COLUMNS,
    RECALL_RANK,
    RECALL_SCORE,
    SCORE,
    SCORE_SCALE,
    TITLE,
    USER,
)
from reranker.fusion import Order
from reranker.rules import ItemColumns, Rules, RulesReport, apply_rules
from reranker.types import IntArray, ItemId, UserId

_SHOWN_LISTS, _SHOWN_ITEMS = 3, 5


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedScores:
    """Scores of a table of lists, each by the order that its user is served.

    Attributes:
        order: what the guard chose, or what was asked for.
        orders: what each list is served: `order`, or the first-stage order that the guard keeps.
        guard: the same by the guard alone, whatever was asked for.
        n_known: (n_users,) interactions known of each user.
        scores: (rows,)
        prompt_tokens: (n_users,) that the model read.
    """

    order: Order
    orders: list[Order]
    guard: list[Order]
    n_known: IntArray
    scores: NDArray[np.float64]
    prompt_tokens: IntArray


@dataclass(frozen=True, kw_only=True)
class RerankReport:
    """Counts of a call of `rerank`.

    Attributes:
        served: the order that the guard chose, or that was asked for.
        users, candidates: how many came in.
        users_kept: users who keep the first-stage order although `served` is another: the guard says so of users of
            whom as much is known.
        unknown_users: users without history here; they are ranked by what does not need one.
        unknown_items: candidate rows whose item is not in the item table; shown to the model as "(untitled)".
    """

    served: Order
    users: int
    candidates: int
    users_kept: int
    unknown_users: int
    unknown_items: int

    @classmethod
    def of(cls, lists: ItemLists, served: ServedScores, catalog: Catalog) -> "RerankReport":
        """Counts validated lists."""
        return cls(
            served=served.order,
            users=len(served.orders),
            candidates=len(lists),
            users_kept=sum(order != served.order for order in served.orders),
            unknown_users=int(np.sum(served.n_known == 0)),
            unknown_items=sum(item not in catalog for item in lists.items),
        )

    def summary(self) -> str:
        """Users and items that are not known, for people."""
        return (
            f"{self.unknown_users} of {self.users} users have no history and {self.unknown_items} of "
            f"{self.candidates} candidates are not in the item table"
        )


class RankingResult:
    """Reranked lists; what `Reranker.rerank` returns.

    `to_frame` is the table, `to_lists` the items of each user; `len` counts rows, `str` shows the first lists.

    Attributes:
        users: whose lists they are, in the order they came in.
        orders: the order that each list was served: "fused", "baseline" or "first_stage".
        guard: the order that the guard decided on for each list, whatever was asked for.
        prompt_tokens: (n_users,) tokens that the model read for each list.
        report: counts of users, candidates and what of them is unknown.
        rules: what rules did, and what of them could not be met; None without rules.
    """

    def __init__(
        self,
        candidates: Candidates,
        served: ServedScores,
        catalog: Catalog,
        k: int | None = None,
        rules: Rules | None = None,
        columns: ItemColumns | None = None,
        history: Callable[[UserId], Sequence[ItemId]] = lambda user: (),
    ) -> None:
        """Ranks lists by their served scores.

        Args:
            candidates: validated.
            served: their scores.
            catalog: the items' texts.
            k: rows kept a user, after the rules; None keeps all.
            rules: applied after scoring.
            columns: the item table that rules read.
            history: user -> items chosen before, whose mix a calibrating rule goes by.

        Raises:
            ConfigError: the rules are about columns that the item table lacks.
        """
        self._lists = ItemLists.of(candidates)
        self._scores = served.scores
        self._catalog = catalog
        self._k = k
        self.users = tuple(self._lists.users)
        self.orders = tuple(served.orders)
        self.guard = tuple(served.guard)
        self.prompt_tokens = served.prompt_tokens
        self.report = RerankReport.of(self._lists, served, catalog)
        self.rules: RulesReport | None = None
        if rules is not None and columns is not None:
            ruled = apply_rules(self._ranking(), rules, columns, history=history)
            self.rules, vars(self)["_table"] = ruled.report, self._cut(ruled.ranked)

    @cached_property
    def rows(self) -> IntArray:
        """(rows,) of the candidates, list by list, best first; ties keep the first-stage order. Neither rules nor `k`
        count."""
        lists = self._lists
        order: IntArray = np.lexsort((lists.ranks, -self._scores, lists.list_index))
        if not np.array_equal(np.sort(order), np.arange(len(lists))):
            raise AssertionError(f"{len(order)} ranked rows are no permutation of {len(lists)} candidates")
        return order

    def best_first(self) -> Iterator[tuple[IntArray, NDArray[np.float64]]]:
        """Of each list, places in the list that came in, from 0, best first, and their scores. Neither rules nor `k`
        count."""
        begin = 0
        for there in self._lists.positions:
            rows = self.rows[begin : begin + len(there)]
            yield np.searchsorted(there, rows), self._scores[rows]
            begin += len(there)

    @cached_property
    def _table(self) -> pd.DataFrame:
        return self._cut(self._ranking())

    def _ranking(self) -> pd.DataFrame:
        lists, rows = self._lists, self.rows
        ranked = lists.frame.iloc[rows].reset_index(drop=True)
        ranked = ranked.rename(columns={SCORE: RECALL_SCORE, RANK: RECALL_RANK})
        list_index = lists.list_index[rows]
        ranked[SCORE] = self._scores[rows]
        ranked[RANK] = np.arange(len(rows)) - np.searchsorted(list_index, list_index) + 1
        scales = np.array([OF_FIRST_STAGE if order == "first_stage" else LOG_ODDS for order in self.orders], object)
        ranked[SCORE_SCALE] = scales[list_index]
        return ranked[RANKING_COLUMNS]

    def _cut(self, table: pd.DataFrame) -> pd.DataFrame:
        return table if self._k is None else table[table[RANK] <= self._k].reset_index(drop=True)

    def to_frame(self, titles: bool = False) -> pd.DataFrame:
        """The ranking as a table.

        Args:
            titles: add the items' titles as a last column.

        Returns:
            `user_id, item_id, score, rank, first_stage_score, first_stage_rank, score_scale`, users in the order they
            came in, each list best first. `score` never rises down a list; `score_scale` says what it is: "log_odds"
            within the list, or "first_stage" where that order is served: what came in, or 1 / rank. Under rules,
            scores stay with the places, and a user whose candidates are all excluded has no row.
        """
        table = self._table.copy()
        if titles:
            table[TITLE] = self._catalog.titles(table[ITEM])
        return table

    def to_lists(self) -> dict[UserId, list[ItemId]]:
        """User -> items, best first."""
        return {user: part[ITEM].tolist() for user, part in self._table.groupby(USER, sort=False)}

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"RankingResult({len(self.users)} users, {len(self)} rows, {self._served()})"

    def __str__(self) -> str:
        return "\n".join([repr(self), *self._head().to_string(index=False).splitlines(), *self._more()])

    def _repr_html_(self) -> str:
        """The first lists as notebooks show tables."""
        lines = (f"<p>{line}</p>" for line in self._more())
        counts = f"{len(self.users)} users, {len(self)} rows, {self._served()}"
        return "".join((f"<p>{counts}</p>", self._head().to_html(index=False), *lines))

    def _served(self) -> str:
        counts = {order: self.orders.count(order) for order in dict.fromkeys(self.orders)}
        if len(counts) == 1:
            return f"served: {next(iter(counts))}"
        return "served: " + ", ".join(f"{order} to {count}" for order, count in counts.items())

    def _head(self) -> pd.DataFrame:
        shown = self._table[self._table[USER].isin(self.users[:_SHOWN_LISTS]) & (self._table[RANK] <= _SHOWN_ITEMS)]
        head = shown[[USER, RANK, RECALL_RANK, ITEM, SCORE]].copy()
        head.insert(4, TITLE, self._catalog.titles(head[ITEM]))
        return head

    def _more(self) -> list[str]:
        left = len(self.users) - _SHOWN_LISTS
        return [f"... and {left} more users; to_frame() has every row"] if left > 0 else []


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderScores:
    """Scores of every order for the rows of one candidates table; what `Reranker.score_all` returns.

    Attributes:
        first_stage: (rows,) the scores that came in, as `first_stage_scores` has them.
        baseline: (rows,) of the interaction features.
        llm: (rows,) of what reads the texts alone: the LLM, or words or a sentence encoder in its place.
        fused: (rows,) of both.
        prompt_tokens: (n_users,) tokens that the model read for each list.
    """

    first_stage: NDArray[np.float64]
    baseline: NDArray[np.float64]
    llm: NDArray[np.float64]
    fused: NDArray[np.float64]
    prompt_tokens: IntArray

    def of(self, order: Order) -> NDArray[np.float64]:
        """(rows,) scores of one order."""
        scores: NDArray[np.float64] = getattr(self, order)
        return scores

    def to_frame(self, index: pd.Index | None = None) -> pd.DataFrame:
        """Columns `first_stage`, `baseline`, `llm` and `fused`, under the candidates' index or 0, 1, ..."""
        names = ("first_stage", "baseline", "llm", "fused")
        return pd.DataFrame({name: getattr(self, name) for name in names}, index=index)


def first_stage_scores(lists: ItemLists) -> NDArray[np.float64]:
    """The scores that came in; reciprocal ranks for a list whose scores contradict its ranks."""
    list_index = lists.list_index
    rising = (np.diff(lists.scores) > 0) & (np.diff(lists.ranks) > 0) & (np.diff(list_index) == 0)
    contradict = np.isin(list_index, list_index[1:][rising])
    return np.where(contradict, 1.0 / lists.ranks, lists.scores)
