"""Rules applied to a ranking: another ranking, and a count of what they did and of what could not be met."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import ITEM, RANK, SCORE, USER
from reranker.rules.calibration import calibrated, mix_of
from reranker.rules.diversity import diversified
from reranker.rules.item_columns import ItemColumns, matches, parts_of
from reranker.rules.placing import CapCount, QuotaMask, placed
from reranker.rules.settings import Calibration, Rules, in_words
from reranker.types import IntArray, ItemId, UserId


@dataclass(frozen=True, kw_only=True)
class RulesReport:
    """What rules did to some lists.

    Attributes:
        lists: how many there were.
        excluded: candidates that are not shown.
        pinned: pins that hold.
        boosted: candidates that remained and whose score was pushed.
        moved: remaining candidates that stand at another place than the scores alone would give them.
        emptied: lists without a single item left.
        unmet: what could not be met, in words -> in how many lists.
        uncalibrated: lists that stay as they are, for their users have no history with a value.
        without_value: column of a cap -> remaining candidates without a value, which are never capped.
        without_effect: conditions and items that match no candidate of any list.
    """

    lists: int = 0
    excluded: int = 0
    pinned: int = 0
    boosted: int = 0
    moved: int = 0
    emptied: int = 0
    uncalibrated: int = 0
    unmet: Mapping[str, int] = field(default_factory=dict)
    without_value: Mapping[str, int] = field(default_factory=dict)
    without_effect: Sequence[str] = ()

    @classmethod
    def joined(cls, reports: Iterable["RulesReport"]) -> "RulesReport":
        """The counts of several tables of lists under the same rules."""
        some = [one for one in reports if one.lists]
        names = ("lists", "excluded", "pinned", "boosted", "moved", "emptied", "uncalibrated")
        unmet, without_value = Counter[str](), Counter[str]()
        for one in some:
            unmet.update(one.unmet)
            without_value.update(one.without_value)
        idle = (
            [words for words in some[0].without_effect if all(words in one.without_effect for one in some)]
            if some
            else []
        )
        counts = {name: sum(getattr(one, name) for one in some) for name in names}
        return cls(**counts, unmet=dict(unmet), without_value=dict(without_value), without_effect=tuple(idle))

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is empty is left out."""
        counts = {name: getattr(self, name) for name in ("lists", "excluded", "pinned", "boosted", "moved")}
        further = {
            "emptied": self.emptied,
            "uncalibrated": self.uncalibrated,
            "unmet": dict(self.unmet),
            "without_value": dict(self.without_value),
            "without_effect": list(self.without_effect),
        }
        return {**counts, **{name: value for name, value in further.items() if value}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RulesReport":
        """Reads what `to_json` wrote."""
        return cls(**data)

    def summary(self) -> str:
        """For people, one line."""
        parts = [
            f"rules: {self.excluded} candidates excluded, {self.pinned} pinned, {self.boosted} boosted, "
            f"{self.moved} moved in {self.lists} lists"
        ]
        if self.emptied:
            parts.append(f"{self.emptied} lists are left without an item")
        if self.uncalibrated:
            parts.append(f"{self.uncalibrated} lists are not calibrated: their users have no history with a value")
        parts += [f"could not be met in {count} lists: {words}" for words, count in self.unmet.items()]
        parts += [f"{count} candidates without {column} are not capped" for column, count in self.without_value.items()]
        if self.without_effect:
            parts.append(f"matched no candidate: {', '.join(self.without_effect)}")
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class RuledLists:
    """A ranking under rules.

    Attributes:
        ranked: the ranking; excluded rows are gone, ranks count anew, and scores stay with the places, so that they
            fall from place to place.
        report: what was done.
    """

    ranked: pd.DataFrame
    report: RulesReport


def apply_rules(
    ranked: pd.DataFrame,
    rules: Rules,
    columns: ItemColumns,
    now: datetime | None = None,
    history: Callable[[UserId], Sequence[ItemId]] = lambda user: (),
) -> RuledLists:
    """Applies rules to every list of a ranking.

    Args:
        ranked: `user_id, item_id, score, rank` and further columns; the rows of a user stand together, best first.
        rules: what is wanted.
        columns: the item table.
        now: what `within_days` counts back from; the clock by default.
        history: user -> items chosen before, whose mix calibration goes by.

    Raises:
        ConfigError: the rules are about columns that the item table lacks, or compare numbers with dates.
    """
    columns.require(rules)
    bound = _Bound.of(ranked, rules, columns, now or datetime.now(UTC), history)
    codes = pd.factorize(ranked[USER])[0]
    begins = np.flatnonzero(np.diff(codes, prepend=-1)).tolist()
    lists = [_ruled(bound, begin, end) for begin, end in zip(begins, [*begins[1:], len(ranked)], strict=True)]
    rows = np.concatenate([one.rows for one in lists]) if lists else np.zeros(0, dtype=np.int64)
    result = ranked.iloc[rows].reset_index(drop=True)
    result[SCORE] = np.concatenate([one.scores for one in lists]) if lists else np.zeros(0)
    result[RANK] = (
        np.concatenate([np.arange(1, len(one.rows) + 1) for one in lists]) if lists else np.zeros(0, dtype=int)
    )
    return RuledLists(ranked=result, report=_report(bound, lists))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bound:
    """Rules looked up for the rows of a ranking.

    Attributes:
        rules: what is wanted.
        scores: (rows,)
        values: (rows, columns) of the items.
        items: (rows,) ids.
        excluded: (rows,) True where the item is not shown.
        by: (rows,) standard deviations that are added.
        boosted: (rows,) True where a boost matches.
        capped: each row's values, for each cap.
        quotas: (rows,) True where the item meets the condition, for each quota.
        pins: item -> 0-based place.
        without_effect: what matches nothing.
        users: (rows,) whose list it is.
        mixes: user -> mix of the history, where lists are calibrated.
        calibrated_by: (rows,) each row's values of the calibrated column; empty without.
    """

    rules: Rules
    scores: NDArray[np.float64]
    values: pd.DataFrame
    items: list[Any]
    excluded: NDArray[np.bool_]
    by: NDArray[np.float64]
    boosted: NDArray[np.bool_]
    capped: Sequence[list[tuple[str, ...]]]
    quotas: Sequence[NDArray[np.bool_]]
    pins: Mapping[Any, int]
    without_effect: Sequence[str]
    users: list[Any]
    mixes: Mapping[Any, Mapping[str, float]]
    calibrated_by: Sequence[tuple[str, ...]]

    @classmethod
    def of(
        cls,
        ranked: pd.DataFrame,
        rules: Rules,
        columns: ItemColumns,
        now: datetime,
        history: Callable[[UserId], Sequence[ItemId]],
    ) -> "_Bound":
        items = ranked[ITEM].tolist()
        there = set(items)
        values = columns.of(items, rules.columns)

        def met(where: Mapping[str, Any]) -> NDArray[np.bool_]:
            return matches(values, where, now)

        def known(item: int | str) -> Any:
            found = columns.known(item)
            return item if found is None or item in there else found

        by_id = {known(item) for rule in rules.exclude for item in rule.items}
        by_condition = [met(rule.where) for rule in rules.exclude if rule.where]
        boosts = [met(rule.where) for rule in rules.boost]
        quotas = [met(rule.where) for rule in rules.quotas]
        nothing = np.zeros(len(items), dtype=np.bool_)
        masks = {
            **{
                f"exclude {in_words(r.where)}": m
                for r, m in zip([r for r in rules.exclude if r.where], by_condition, strict=True)
            },
            **{f"boost {in_words(r.where)}": m for r, m in zip(rules.boost, boosts, strict=True)},
            **{f"quota {in_words(r.where)}": m for r, m in zip(rules.quotas, quotas, strict=True)},
        }
        return cls(
            rules=rules,
            scores=ranked[SCORE].to_numpy(dtype=np.float64),
            values=values,
            items=items,
            excluded=np.logical_or.reduce(
                [nothing, np.array([item in by_id for item in items], dtype=np.bool_), *by_condition]
            ),
            by=np.asarray(
                sum((r.by * m for r, m in zip(rules.boost, boosts, strict=True)), start=np.zeros(len(items)))
            ),
            boosted=np.logical_or.reduce([nothing, *boosts]),
            capped=[parts_of(values[cap.column]) for cap in rules.caps],
            quotas=quotas,
            pins={known(pin.item): pin.place - 1 for pin in rules.pin},
            users=ranked[USER].tolist(),
            mixes=_mixes(ranked, rules.calibration, columns, history),
            calibrated_by=parts_of(values[rules.calibration.by]) if rules.calibration else (),
            without_effect=[
                *(f"item {item}" for item in rules.items if known(item) not in there),
                *(words for words, mask in masks.items() if not mask.any()),
            ],
        )


def _mixes(
    ranked: pd.DataFrame,
    wanted: Calibration | None,
    columns: ItemColumns,
    history: Callable[[UserId], Sequence[ItemId]],
) -> dict[Any, dict[str, float]]:
    """User -> mix of the history in the calibrated column; empty without one."""
    if wanted is None:
        return {}
    return {
        user: mix_of(parts_of(columns.of(list(history(user)), [wanted.by])[wanted.by]))
        for user in ranked[USER].drop_duplicates()
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _List:
    """One list under rules.

    Attributes:
        rows: of the ranking, in the order in which they are shown.
        scores: (rows,) descending.
        moved: rows that stand elsewhere than the scores alone would have them.
        pinned: pins that hold.
        unmet: what could not be met, in words.
    """

    rows: IntArray
    scores: NDArray[np.float64]
    moved: int
    pinned: int
    unmet: Sequence[str]


def _ruled(bound: _Bound, begin: int, end: int) -> _List:
    """One list, from its rows begin..end."""
    rules = bound.rules
    spread = float(bound.scores[begin:end].std())
    kept = np.flatnonzero(~bound.excluded[begin:end]) + begin
    pushed = bound.scores[kept] + bound.by[kept] * spread
    by_score = np.argsort(-pushed, kind="stable")
    order, scores = kept[by_score], pushed[by_score]
    if rules.diversity is not None and len(order):
        order = order[diversified(scores, bound.values.iloc[order], rules.diversity)]
    if rules.calibration is not None and len(order):
        values, mix = [bound.calibrated_by[row] for row in order.tolist()], bound.mixes[bound.users[begin]]
        order = order[calibrated(scores, values, mix, rules.calibration)]
    pins = {
        place: at
        for at, row in enumerate(order.tolist())
        if (place := bound.pins.get(bound.items[row], len(order))) < len(order)
    }
    caps = [
        CapCount(values=[values[row] for row in order], most=cap.most, first=cap.first)
        for cap, values in zip(rules.caps, bound.capped, strict=True)
    ]
    quotas = [
        QuotaMask(mask=mask[order], at_least=quota.at_least, first=min(quota.first, len(order)))
        for quota, mask in zip(rules.quotas, bound.quotas, strict=True)
    ]
    shown = order[placed(np.arange(len(order)), pins, caps, quotas)]
    return _List(
        rows=shown,
        scores=scores,
        moved=int(np.sum(shown != kept)),
        pinned=len(pins),
        unmet=_unmet(bound, shown),
    )


def _unmet(bound: _Bound, shown: IntArray) -> list[str]:
    """What does not hold of a list as it is shown."""
    rules = bound.rules
    items = [bound.items[row] for row in shown.tolist()]
    words = [
        f"pin {item} at {place + 1}"
        for item, place in bound.pins.items()
        if place >= len(items) or items[place] != item
    ]
    for cap, values in zip(rules.caps, bound.capped, strict=True):
        counts = Counter(value for row in shown[: cap.first].tolist() for value in values[row])
        if counts and max(counts.values()) > cap.most:
            words.append(f"at most {cap.most} by {cap.column} in the first {cap.first}")
    for quota, mask in zip(rules.quotas, bound.quotas, strict=True):
        if mask[shown[: quota.first]].sum() < quota.at_least:
            words.append(f"at least {quota.at_least} of {in_words(quota.where)} in the first {quota.first}")
    return words


def _report(bound: _Bound, lists: Sequence[_List]) -> RulesReport:
    remaining = ~bound.excluded
    without_value = {
        cap.column: sum(not parts for parts, remains in zip(values, remaining, strict=True) if remains)
        for cap, values in zip(bound.rules.caps, bound.capped, strict=True)
    }
    return RulesReport(
        lists=len(lists),
        excluded=int(bound.excluded.sum()),
        pinned=sum(one.pinned for one in lists),
        boosted=int((bound.boosted & remaining).sum()),
        moved=sum(one.moved for one in lists),
        emptied=sum(not len(one.rows) for one in lists),
        uncalibrated=sum(not mix for mix in bound.mixes.values()),
        unmet=dict(Counter(words for one in lists for words in one.unmet)),
        without_value={column: count for column, count in without_value.items() if count},
        without_effect=tuple(bound.without_effect),
    )
