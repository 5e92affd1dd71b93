"""Items that nobody chose: ranked among themselves by what is known of them, and what that is worth.

Windows of a fit hold no choice of such an item. So some items are made new by pretence: their interactions are left
out, and pages of them alone, each with one that its user chose, say what their texts are worth and how to weigh them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError
from reranker.fusion.choices import Choices
from reranker.fusion.columns import content_columns
from reranker.fusion.conditional_logit import ConditionalLogit
from reranker.fusion.guard import METRIC, by_user
from reranker.fusion.head import CROSS_FITTING_FOLDS, FusionHead, assign_folds
from reranker.types import IntArray
from reranker.utils.statistics import Interval, mean_interval, ndcg_by_list


@dataclass(frozen=True, kw_only=True, eq=False)
class NewItemPages:
    """Pages of items that are new by pretence, read.

    Attributes:
        choices: lists of new items alone, and what was chosen.
        raw: (rows, n_components) what the reader says.
    """

    choices: Choices
    raw: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NewItemsVerdict:
    """What is read of new items is worth on pages of them, over the interaction features.

    Attributes:
        baseline: NDCG@10 of the order by interaction features, which know nothing of such items.
        read: of the order by what is read of them, weights cross-fitted.
        gain: of the second over the first by paired bootstrap over users.
    """

    baseline: float
    read: float
    gain: Interval

    @property
    def gains(self) -> bool:
        """Whether the interval lies above 0."""
        return self.gain.low > 0

    def summary(self, unused: str = "") -> str:
        """For people, one line.

        Args:
            unused: why the served order ranks no new items by what is read of them, whatever it is worth; "" if it can.
        """
        served = "are ranked like all others"
        if self.gains:
            served = f"{served}, for {unused}" if unused else "are ranked among themselves by what is read of them"
        return (
            f"items that nobody chose {served}: {METRIC} {self.read:.4f} on pages of items that were new by pretence, "
            f"{self.gain} over the interaction features, {self.gain.n} users"
        )

    def to_json(self) -> dict[str, Any]:
        return {"baseline": self.baseline, "read": self.read, "gain": {**self.gain.to_dict(), "n": self.gain.n}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "NewItemsVerdict":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            baseline, read = float(data["baseline"]), float(data["read"])
            if not np.isfinite([baseline, read]).all():
                raise ValueError(f"NDCG {baseline} and {read}")
            return cls(baseline=baseline, read=read, gain=Interval(**data["gain"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"new items: not what this version writes ({error!r}); fit again") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedNewItems:
    """A head for new items, and what it was worth.

    Attributes:
        head: fitted on all pages.
        verdict: cross-fitted.
        ndcg: "baseline" and "fused" -> (n_users,) NDCG@10 of each user of the pages.
    """

    head: FusionHead
    verdict: NewItemsVerdict
    ndcg: Mapping[str, NDArray[np.float64]]


def judge_new_items(
    pages: NewItemPages, baseline: FusionHead, words: Mapping[str, str], l2: float = 1.0, seed: int = 0
) -> JudgedNewItems:
    """Fits a head on pages of new items, and judges it by 5-fold cross-fitting over users.

    Args:
        pages: read.
        baseline: the head over interaction features, the control.
        words: component -> what it says.
        l2: ridge penalty.
        seed: of the folds and the bootstrap.

    Raises:
        DataError: fewer than two users chose something.
    """
    choices, values = pages.choices, content(pages.choices.columns, pages.choices.features, pages.raw)
    folds = assign_folds(choices.list_index, choices.chosen, CROSS_FITTING_FOLDS, seed, choices.user_numbers)
    scores = np.zeros(len(values))
    for number in np.unique(folds):
        mine = folds == number
        head = head_of_new_items(
            choices.columns, words, values[~mine], choices.list_index[~mine], choices.chosen[~mine], l2
        )
        scores[mine] = head.score(values[mine])
    ndcg = {
        order: by_user(
            ndcg_by_list(of_order, choices.list_index, choices.chosen, choices.n_relevant), choices.user_numbers
        )
        for order, of_order in (("baseline", baseline.score(choices.features)), ("fused", scores))
    }
    return JudgedNewItems(
        head=head_of_new_items(choices.columns, words, values, choices.list_index, choices.chosen, l2),
        verdict=NewItemsVerdict(
            baseline=float(ndcg["baseline"].mean()),
            read=float(ndcg["fused"].mean()),
            gain=mean_interval(ndcg["fused"] - ndcg["baseline"], seed=seed),
        ),
        ndcg=ndcg,
    )


def content(columns: Mapping[str, str], features: NDArray[np.float64], raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows, n_content) what is known of new items, too: own columns and vectors, and the raw components behind them.

    Args:
        columns: of `features`.
        features: (rows, n_features) interaction features, own ones behind them.
        raw: (rows, n_components) what the reader says.
    """
    return np.hstack([features[:, content_columns(list(columns))], raw])


def head_of_new_items(
    columns: Mapping[str, str],
    words: Mapping[str, str],
    values: NDArray[np.float64],
    list_index: IntArray,
    chosen: NDArray[np.bool_],
    l2: float,
) -> FusionHead:
    """A head over `content`.

    Args:
        columns: of the interaction features, own ones behind them.
        words: component -> what it says.
        values: (rows, n_content).
        list_index: (rows,) number of the list.
        chosen: (rows,) True where the item was chosen.
        l2: ridge penalty.
    """
    names = list(columns)
    own = [names[place] for place in content_columns(names).tolist()]
    scale = np.concatenate([np.ones(len(own)), spread(values[:, len(own) :])])
    logit = at_unit_scale(values, scale, np.unique(list_index, return_inverse=True)[1], chosen, l2)
    return FusionHead(columns={**{name: columns[name] for name in own}, **words}, logit=logit)


def at_unit_scale(
    values: NDArray[np.float64],
    scale: NDArray[np.float64],
    list_index: IntArray,
    chosen: NDArray[np.bool_],
    l2: float,
) -> ConditionalLogit:
    """A logit whose weights are fitted at unit scale, so that the ridge treats them alike, then scaled back."""
    fitted = ConditionalLogit.fit((values - values.mean(axis=0)) / scale, list_index, chosen, l2)
    return replace(fitted, weights=fitted.weights / scale)


def spread(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_components,) standard deviations; 1 where a component is the same everywhere."""
    deviations: NDArray[np.float64] = raw.std(axis=0)
    return np.where(deviations > 0, deviations, 1.0)
