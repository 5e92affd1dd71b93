"""The never-worse guard: a new order is served only where a validation fold says it beats the order that came in.

Where it wins on the whole, it may still lose for users of whom little is known, so users are judged by how much that
is, too; and users with fewer known interactions than the fold covers keep the first-stage order.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError, ConfigError
from reranker.types import IntArray
from reranker.utils.statistics import Interval, mean_interval

Order = Literal["fused", "baseline", "first_stage"]
"""Which order is served: LLM and interaction features, the baseline, or the first-stage order untouched."""

METRIC = "NDCG@10"

HISTORY_BOUNDS = (1, 6, 11, 21)
"""Known interactions from which users are judged apart from those with fewer."""

FEWEST_USERS = 20
"""A group with fewer users is judged with the next one. Who is newer than the 20th newest user of the fold keeps the
first-stage order."""


def as_order(name: str) -> Order:
    """The order called `name`.

    Raises:
        ConfigError: there is none.
    """
    for order in get_args(Order):
        if name == order:
            return cast(Order, order)
    raise ConfigError(f"unknown order {name!r}: it must be one of {', '.join(get_args(Order))}")


@dataclass(frozen=True, kw_only=True)
class HistoryGroup:
    """Validation users of whom about as much is known.

    Attributes:
        at_least: known interactions, up to those of the next group.
        gain: NDCG@10 of the order that the guard chose, minus that of the first-stage order.
        reordered: True where the group is served the chosen order, False where it keeps the first-stage order.
    """

    at_least: int
    gain: Interval
    reordered: bool


@dataclass(frozen=True, kw_only=True)
class GuardDecision:
    """What is served, and why.

    Attributes:
        serve: the order served.
        fused_minus_first_stage, fused_minus_baseline, baseline_minus_first_stage: NDCG@10 differences on the validation
            fold by paired bootstrap over users, weights cross-fitted; a user whose item the first stage missed counts
            as 0.
        by_history: users by what is known of them, least first; empty if and only if the first-stage order is served.
        only_new_items: the fused order that is served ranks items that somebody chose as the baseline does, for what is
            read adds nothing to it, and items that nobody chose among themselves by what is read of them.
    """

    serve: Order
    fused_minus_first_stage: Interval
    fused_minus_baseline: Interval
    baseline_minus_first_stage: Interval
    by_history: tuple[HistoryGroup, ...] = ()
    only_new_items: bool = False

    def __post_init__(self) -> None:
        if (self.serve == "first_stage") == bool(self.by_history):
            raise ValueError(f"guard: serves {self.serve!r} to {len(self.by_history)} groups of users")
        if self.only_new_items and self.serve != "fused":
            raise ValueError(f"guard: serves {self.serve!r}, and reads new items for it")

    @property
    def judged(self) -> Order:
        """The order by which lists of known items, which were judged, are served."""
        return "baseline" if self.only_new_items else self.serve

    @property
    def margin(self) -> Interval:
        """Of the served order over the first-stage order; where that is served, of the fused order, which lost."""
        return self.baseline_minus_first_stage if self.judged == "baseline" else self.fused_minus_first_stage

    def overruled(self, order: Order, at_least: int = 0) -> "GuardDecision":
        """Serves `order` to everyone of whom `at_least` interactions are known, whatever was found."""
        gain = self.fused_minus_first_stage if order == "fused" else self.baseline_minus_first_stage
        groups = () if order == "first_stage" else (HistoryGroup(at_least=at_least, gain=gain, reordered=True),)
        only_new_items = self.only_new_items and order == "fused"
        return replace(self, serve=order, by_history=groups, only_new_items=only_new_items)

    def holds_for(self, n_known: IntArray) -> NDArray[np.bool_]:
        """(n_users,) True where `serve` is served, from (n_users,) known interactions; the others keep the first stage
        order."""
        bounds = [group.at_least for group in self.by_history]
        reordered = np.array([False, *(group.reordered for group in self.by_history)])  # first: newer than any of them
        holds: NDArray[np.bool_] = reordered[np.searchsorted(bounds, n_known, side="right")]
        return holds

    def orders(self, n_known: IntArray) -> list[Order]:
        """What each user is served, from (n_users,) known interactions."""
        return [self.serve if holds else "first_stage" for holds in self.holds_for(n_known)]

    def summary(self) -> str:
        """What is served and why, for the log and for `bundle.yaml`."""
        return "; ".join([self._served_in_words(), *self._kept_in_words()])

    def _kept_in_words(self) -> list[str]:
        """Who keeps the first-stage order although another one is served."""
        kept = []
        if self.by_history and (fewest := self.by_history[0].at_least):
            kept.append(
                f"users with fewer than {fewest} known interactions keep the first-stage order: too few were seen"
            )
        ends = [following.at_least - 1 for _, following in pairwise(self.by_history)]
        for group, end in zip(self.by_history, [*ends, None], strict=False):
            if not group.reordered:
                up_to = " or more" if end is None else f" to {end}" if end > group.at_least else ""
                kept.append(
                    f"users with {group.at_least}{up_to} known interactions keep the first-stage order ({group.gain} "
                    f"{METRIC} on {group.gain.n} of them)"
                )
        return kept

    def _served_in_words(self) -> str:
        n = self.fused_minus_first_stage.n
        if self.serve == "first_stage":
            return (
                f"serving the first-stage order: on {n} validation users neither the fused order "
                f"({self.fused_minus_first_stage} {METRIC}) nor "
                f"the baseline ({self.baseline_minus_first_stage}) beats it with the interval above 0"
            )
        if self.judged == "baseline":
            what = "the baseline (no text is read)"
            if self.only_new_items:
                what = "known items by the baseline, new ones among themselves by what is read of them"
            return (
                f"serving {what}: on {n} validation users the baseline beats the first-stage order "
                f"({self.baseline_minus_first_stage} {METRIC}) and reading texts does not add to it "
                f"({self.fused_minus_baseline})"
            )
        return (
            f"serving the fused order: on {n} validation users it beats the first-stage order "
            f"({self.fused_minus_first_stage} {METRIC}); against the baseline {self.fused_minus_baseline}"
        )

    def to_json(self) -> dict[str, Any]:
        names = ("fused_minus_first_stage", "fused_minus_baseline", "baseline_minus_first_stage")
        intervals: dict[str, Interval] = {name: getattr(self, name) for name in names}
        groups = [
            {"at_least": one.at_least, "gain": _as_json(one.gain), "reordered": one.reordered}
            for one in self.by_history
        ]
        return {
            "serve": self.serve,
            **{name: _as_json(value) for name, value in intervals.items()},
            "by_history": groups,
            **({"only_new_items": True} if self.only_new_items else {}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "GuardDecision":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            if data["serve"] not in get_args(Order):
                raise ValueError(f"unknown order {data['serve']!r}")
            return cls(
                serve=data["serve"],
                fused_minus_first_stage=Interval(**data["fused_minus_first_stage"]),
                fused_minus_baseline=Interval(**data["fused_minus_baseline"]),
                baseline_minus_first_stage=Interval(**data["baseline_minus_first_stage"]),
                by_history=tuple(
                    HistoryGroup(
                        at_least=int(one["at_least"]), gain=Interval(**one["gain"]), reordered=bool(one["reordered"])
                    )
                    for one in data["by_history"]
                ),
                only_new_items=bool(data.get("only_new_items", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"guard: not what this version writes ({error!r}); fit the bundle again") from error


def decide(
    generator: NDArray[np.float64],
    features: NDArray[np.float64],
    fused: NDArray[np.float64],
    n_known: IntArray,
    seed: int = 0,
    users: IntArray | None = None,
) -> GuardDecision:
    """Chooses the order to serve from (n_lists,) NDCG@10 values of the three orders on the validation fold.

    An order is eligible when its 95 % interval against the first-stage order lies above 0. Among the eligible the
    higher mean is served, so the LLM is dropped where it takes away from the baseline; where both order alike, reading
    with the LLM would be for nothing.

    Args:
        n_known: (n_lists,) interactions known of each user when the list was made.
        users: (n_lists,) number of each list's user, who counts once, by the mean over his lists; by default each has
            one list.
    """
    users = np.arange(len(generator)) if users is None else users
    fused_minus_first_stage = mean_interval(by_user(fused - generator, users), seed=seed)
    baseline_minus_first_stage = mean_interval(by_user(features - generator, users), seed=seed)
    fused_minus_baseline = mean_interval(by_user(fused - features, users), seed=seed)
    serve: Order = "first_stage"
    if fused_minus_first_stage.low > 0 and (fused_minus_baseline.mean > 0 or not baseline_minus_first_stage.low > 0):
        serve = "fused"
    elif baseline_minus_first_stage.low > 0:
        serve = "baseline"
    gain = {"fused": fused - generator, "baseline": features - generator}
    return GuardDecision(
        serve=serve,
        fused_minus_first_stage=fused_minus_first_stage,
        fused_minus_baseline=fused_minus_baseline,
        baseline_minus_first_stage=baseline_minus_first_stage,
        by_history=_by_history(gain[serve], n_known, users, seed) if serve in gain else (),
    )


def vetoed(
    decision: GuardDecision,
    generator: NDArray[np.float64],
    features: NDArray[np.float64],
    fused: NDArray[np.float64],
    users: IntArray,
    seed: int = 0,
) -> GuardDecision:
    """The decision, or the next lower order where a newer window alone shows that what it serves is worse.

    A window of a day is mostly too small to show a gain; it is a reason to stop where its 95 % interval over the
    first-stage order lies below 0.

    Args:
        decision: on all windows.
        the first stage: (n_lists,) NDCG@10 of the first-stage order on the newest window; `features` and `fused` alike.
        features: of the interaction features.
        fused: of the fused order.
        users: (n_lists,) number of each list's user.
        seed: of the bootstrap.
    """

    def is_worse(values: NDArray[np.float64]) -> bool:
        return mean_interval(by_user(values - generator, users), seed=seed).high < 0

    if decision.serve == "fused" and is_worse(fused):
        serves_features = decision.baseline_minus_first_stage.low > 0 and not is_worse(features)
        return decision.overruled("baseline" if serves_features else "first_stage", decision.by_history[0].at_least)
    if decision.serve == "baseline" and is_worse(features):
        return decision.overruled("first_stage")
    return decision


def by_user(values: NDArray[np.float64], users: IntArray) -> NDArray[np.float64]:
    """(n_users,) means over the lists of each."""
    numbers = np.unique(users, return_inverse=True)[1]
    means: NDArray[np.float64] = np.bincount(numbers, weights=values) / np.bincount(numbers)
    return means


def _by_history(gain: NDArray[np.float64], n_known: IntArray, users: IntArray, seed: int) -> tuple[HistoryGroup, ...]:
    """Groups between the bounds; one that is too small goes with the next, the last with the one before.

    A group is reordered where the gain is likelier above 0 than below: on the whole it is above 0 beyond doubt, and a
    group is too small to ask for that again. A user whose lists are of several lengths of history is in several groups.
    """

    def n_users(lists: NDArray[np.bool_]) -> int:
        return len(np.unique(users[lists]))

    newest = np.full(users.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(newest, users, n_known)
    newest = np.sort(newest[np.unique(users)])
    begins = [int(newest[min(FEWEST_USERS, len(newest)) - 1])]
    for bound in HISTORY_BOUNDS:
        behind = n_known >= bound
        if min(n_users(behind), n_users((n_known >= begins[-1]) & ~behind)) >= FEWEST_USERS:
            begins.append(int(n_known[behind].min()))
    groups = np.searchsorted(begins, n_known, side="right") - 1
    mine = [groups == number for number in range(len(begins))]
    gains = [mean_interval(by_user(gain[one], users[one]), seed=seed) for one in mine]
    return tuple(
        HistoryGroup(at_least=begin, gain=one, reordered=one.mean > 0) for begin, one in zip(begins, gains, strict=True)
    )


def _as_json(value: Interval) -> dict[str, Any]:
    return {**value.to_dict(), "n": value.n}
