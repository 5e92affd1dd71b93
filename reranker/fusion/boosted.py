"""Gradient-boosted trees as the ranker: LightGBM's LambdaMART (Burges 2010) over the columns of the linear head, and
whether they are worth more than its weights."""

import importlib.util
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError, ConfigError
from reranker.fusion.conditional_logit import ConditionalLogit
from reranker.fusion.guard import METRIC, by_user
from reranker.fusion.tree_text import rewritten
from reranker.types import IntArray
from reranker.utils.statistics import Interval, mean_interval, ndcg_by_list

TREES = 100
_SETTINGS: dict[str, Any] = {
    "objective": "lambdarank",
    "num_leaves": 15,
    "learning_rate": 0.05,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbose": -1,
}

Floats = NDArray[np.float64]


def has_lightgbm() -> bool:
    """Whether trees can be fitted and read."""
    return importlib.util.find_spec("lightgbm") is not None


def require_lightgbm() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ConfigError(f"gradient-boosted trees need lightgbm ({error}): pip install 'reranker[boosted]'") from error
    return lightgbm


@dataclass(frozen=True, kw_only=True, eq=False)
class BoostedTrees:
    """A forest over the columns of a head.

    Attributes:
        model: LightGBM's text, as `rewritten` writes it.
        scale: of its scores, by which their differences within a list are log-odds.
    """

    model: str
    scale: float = 1.0

    @classmethod
    def fit(cls, features: Floats, list_index: IntArray, chosen: NDArray[np.bool_], seed: int = 0) -> "BoostedTrees":
        """Fits on the lists with a chosen item; the same trees for the same lists and seed.

        Args:
            features: (rows, n_columns).
            list_index: (rows,) number of the list.
            chosen: (rows,)
            seed: of LightGBM.

        Raises:
            ConfigError: lightgbm is not installed.
        """
        lightgbm = require_lightgbm()
        rows = np.flatnonzero(np.isin(list_index, list_index[chosen]))
        rows = rows[np.argsort(list_index[rows], kind="stable")]  # LightGBM takes lists as runs of rows
        sizes = np.unique(list_index[rows], return_counts=True)[1]
        data = lightgbm.Dataset(features[rows], label=chosen[rows].astype(np.int64), group=sizes)
        booster = lightgbm.train({**_SETTINGS, "seed": seed}, data, num_boost_round=TREES)
        return cls(model=rewritten(booster.model_to_string(), features.shape[1]))

    @cached_property
    def _booster(self) -> Any:
        return require_lightgbm().Booster(model_str=self.model)

    def score(self, features: Floats) -> Floats:
        """(rows,) scores; only differences within a list mean anything."""
        found = self._booster.predict(features, raw_score=True, num_threads=1)
        return np.asarray(found, dtype=np.float64) * self.scale

    def contributions(self, features: Floats) -> Floats:
        """(rows, n_columns) SHAP values (Lundberg et al. 2020): a row sums to its score, but for a constant."""
        found = self._booster.predict(features, pred_contrib=True, num_threads=1)
        return np.asarray(found, dtype=np.float64)[:, :-1] * self.scale

    def shares(self) -> Floats:
        """(n_columns,) share of each column in what the splits gained."""
        gains = np.asarray(self._booster.feature_importance("gain"), dtype=np.float64)
        return np.asarray(gains / (gains.sum() or 1.0))

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "scale": self.scale}

    @classmethod
    def from_json(cls, data: dict[str, Any], n_columns: int) -> "BoostedTrees":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: it is no forest over so many columns.
            ConfigError: lightgbm is not installed.
        """
        try:
            scale, model = float(data["scale"]), data["model"]
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"trees: not what this version writes ({error!r}); fit the bundle again") from error
        if not isinstance(model, str) or not 0 < scale < np.inf:
            raise BundleError("trees: not what this version writes; fit the bundle again")
        require_lightgbm()
        return cls(model=rewritten(model, n_columns), scale=scale)


@dataclass(frozen=True, kw_only=True)
class TreesVerdict:
    """What trees were worth over linear weights on the validation windows.

    Attributes:
        gain: NDCG@10 of trees minus linear weights over the same columns, cross-fitted, by paired bootstrap over users.
        used: trees rank: their interval lies above 0, or they were insisted on.
    """

    gain: Interval
    used: bool

    def summary(self, order: str) -> str:
        """For people, one line."""
        used = "rank" if self.used else "do not rank"
        return f"gradient-boosted trees {used} in the {order} order: {self.gain} {METRIC} over linear weights"

    def to_json(self) -> dict[str, Any]:
        return {"gain": {**self.gain.to_dict(), "n": self.gain.n}, "used": self.used}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TreesVerdict":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            return cls(gain=Interval(**data["gain"]), used=bool(data["used"]))
        except (KeyError, TypeError) as error:
            raise BundleError(f"trees: not what this version writes ({error!r}); fit the bundle again") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedTrees:
    """Trees beside the linear head that was cross-fitted on the same lists.

    Attributes:
        verdict: what they are worth.
        scores: (rows,) cross-fitted, in log-odds.
        scale: that makes log-odds of what such trees say.
    """

    verdict: TreesVerdict
    scores: Floats
    scale: float


def judge_trees(
    features: Floats,
    list_index: IntArray,
    chosen: NDArray[np.bool_],
    n_relevant: IntArray,
    users: IntArray,
    linear: Floats,
    folds: IntArray,
    insist: bool,
    seed: int = 0,
) -> JudgedTrees:
    """Cross-fits trees on the folds of the linear head, and compares the two in pairs.

    Args:
        features: (rows, n_columns).
        list_index: (rows,) 0-based number of the list.
        chosen: (rows,)
        n_relevant: (n_lists,) held-out items.
        users: (n_lists,) number of each list's user.
        linear: (rows,) scores of linear heads fitted on other users.
        folds: (rows,) fold that each row was held out in.
        insist: use them whatever they are worth.
        seed: of LightGBM and of the bootstrap.

    Raises:
        ConfigError: lightgbm is not installed.
    """
    scores = np.zeros(len(linear))
    for number in np.unique(folds):
        mine = folds == number
        trees = BoostedTrees.fit(features[~mine], list_index[~mine], chosen[~mine], seed)
        scores[mine] = trees.score(features[mine])
    slope = float(ConditionalLogit.fit(scores[:, None], list_index, chosen, 1.0).weights[0])
    scale = slope if slope > 0 else 1.0
    ndcg = [ndcg_by_list(one, list_index, chosen, n_relevant) for one in (scores, linear)]
    gain = mean_interval(by_user(ndcg[0] - ndcg[1], users), seed=seed)
    verdict = TreesVerdict(gain=gain, used=insist or gain.low > 0)
    return JudgedTrees(verdict=verdict, scores=scores * scale, scale=scale)


def trees_of_head(
    judged: JudgedTrees | None,
    features: NDArray[np.float64],
    list_index: IntArray,
    chosen: NDArray[np.bool_],
    seed: int,
    past: BoostedTrees | None,
) -> BoostedTrees | None:
    """Trees for a head: those of before, new ones where they are used, or None."""
    if past is not None or judged is None or not judged.verdict.used:
        return past
    return replace(BoostedTrees.fit(features, list_index, chosen, seed), scale=judged.scale)
