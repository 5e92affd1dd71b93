"""What `Reranker.fit` learns: scorer coefficients, fusion weights and the guard's decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.config import BOOSTED, Ranker
from reranker.errors import BundleError, DataError
from reranker.fusion.boosted import BoostedTrees, JudgedTrees, TreesVerdict, has_lightgbm, judge_trees, trees_of_head
from reranker.fusion.choices import Choices
from reranker.fusion.columns import llm_columns, llm_words, with_new_items
from reranker.fusion.guard import GuardDecision, by_user, decide, vetoed
from reranker.fusion.head import CROSS_FITTING_FOLDS, FusionHead, assign_folds, fit_fused
from reranker.fusion.judged import JudgedLists
from reranker.fusion.new_items import (
    JudgedNewItems,
    NewItemPages,
    NewItemsVerdict,
    at_unit_scale,
    content,
    head_of_new_items,
    judge_new_items,
    spread,
)
from reranker.fusion.own_judged import OwnVerdict
from reranker.fusion.past import PastChoices
from reranker.fusion.query_verdict import QueryVerdict
from reranker.fusion.rules_verdict import RulesVerdict
from reranker.types import IntArray
from reranker.utils.statistics import ndcg_by_list


@dataclass(frozen=True, kw_only=True, eq=False)
class _ReadLists:
    """The lists of a fold that the LLM read.

    Attributes:
        rows: positions in the fold.
        list_index: (rows,) their lists, renumbered from 0.
        users: (n_lists,) number of each list's user.
        chosen: (rows,) True where the item was chosen.
        features: (rows, interaction features + LLM columns), z-scored within lists.
    """

    rows: IntArray
    list_index: IntArray
    users: IntArray
    chosen: NDArray[np.bool_]
    features: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Past:
    """Earlier choices of both heads, where there are any."""

    features: PastChoices | None = None
    fused: PastChoices | None = None
    trees: Mapping[str, BoostedTrees] = field(default_factory=dict)

    @classmethod
    def of(cls, fusion_model: "FusionModel | None", columns: dict[str, str]) -> "_Past":
        if fusion_model is None:
            return cls()
        if (
            fusion_model.features.past is None
            or fusion_model.fused.past is None
            or list(fusion_model.fused.columns) != list(columns)
        ):
            raise BundleError(
                "the fusion head cannot be updated: it holds no past choices, or has other columns than this version "
                "gives it. Fit the bundle again"
            )
        heads = {"baseline": fusion_model.features, "fused": fusion_model.fused}
        trees = {order: head.trees for order, head in heads.items() if head.trees is not None}
        return cls(features=fusion_model.features.past, fused=fusion_model.fused.past, trees=trees)


_VERDICTS: dict[str, Any] = {
    "new_items_verdict": NewItemsVerdict,
    "own": OwnVerdict,
    "own_vectors": OwnVerdict,
    "rules": RulesVerdict,
    "queries": QueryVerdict,
}
"""Fields of `FusionModel` that say what something was worth, each written as JSON where it is there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FusionModel:
    """How components of the LLM and interaction features become one order.

    Attributes:
        coefficients: (n_components,) of the LLM alone; differences within a list are log-odds.
        fused: head over interaction features and LLM components.
        new_items: head over what is known of items that nobody chose: own columns and vectors, and what the LLM says,
            as it is. It ranks them among themselves in the fused order. None without a reader of texts, and where
            pages of such items show no gain.
        new_items_verdict: what that is worth on pages of items that were new by pretence; None where there were none.
        features: head over the baseline: what the guard falls back on, and the control of every comparison.
        guard: which order is served, and why.
        validation: order -> (n_users,) cross-fitted NDCG@10 of each user of the fold, by which two models of one fold
            can be compared in pairs; empty where it was loaded.
        new_items_validation: the same of the pages of new items.
        own: what own features were worth; None where there were none.
        own_vectors: what item vectors of the user's own were worth; None where there were none.
        trees: order -> what gradient-boosted trees were worth over its linear weights; empty where they were not tried.
        rules: what rules after scoring cost on the windows of the fit; None where none were asked about.
        queries: what the queries of the fit's lists were worth; None where there were none.
        scores: order -> (rows,) cross-fitted scores of the fold's candidates, NaN where the LLM read nothing; empty
            once `Reranker.fit` is through, and where it was loaded.
        judged: each list's NDCG@10 that the guard went by, newest window first; None in bundles that hold none.
    """

    coefficients: NDArray[np.float64]
    fused: FusionHead
    features: FusionHead
    guard: GuardDecision
    new_items: FusionHead | None = None
    new_items_verdict: NewItemsVerdict | None = None
    validation: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    new_items_validation: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    judged: JudgedLists | None = None
    own: OwnVerdict | None = None
    own_vectors: OwnVerdict | None = None
    trees: Mapping[str, TreesVerdict] = field(default_factory=dict)
    rules: RulesVerdict | None = None
    queries: QueryVerdict | None = None
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        fold: Choices,
        components: Mapping[int, NDArray[np.float64]],
        words: dict[str, str],
        l2: float = 1.0,
        seed: int = 0,
        past: "FusionModel | None" = None,
        ranker: Ranker = "linear",
        pages: NewItemPages | None = None,
    ) -> "FusionModel":
        """Fits everything on the fold; with `past`, updates what was fitted before by the fold.

        Args:
            fold: lists and choices.
            components: list number -> (n_candidates, n_components), for the lists the LLM scored. They must contain a
                chosen item: other lists count as 0 for every order, whatever the LLM says of them.
            words: LLM component -> what it says.
            l2: ridge penalty.
            seed: of the cross-fitting folds and the bootstrap.
            past: what was fitted on earlier choices, over the same columns. Its choices count on to second order;
                coefficients of the LLM alone, the head of new items and trees stay. The guard goes by the newest lists
                of both, and drops an order that the new ones alone show to be worse than the first stage.
            ranker: as `RerankerConfig.ranker`.
            pages: of items that are new by pretence, by which such items are ranked and judged; without them their
                weights are those of the fold's lists.

        Raises:
            DataError: no list contains a chosen item.
            BundleError: `past` holds no choices, or those of other columns.
            ConfigError: trees are insisted on, and lightgbm is not installed.
        """
        if not components:
            raise DataError("fusion: no list contains a chosen item, so there is nothing to learn from")
        rows = np.flatnonzero(np.isin(fold.list_index, list(components)))
        numbers, list_index = np.unique(fold.list_index[rows], return_inverse=True)
        raw = np.concatenate([components[number] for number in numbers])
        features = fold.features[rows]
        read = _ReadLists(
            rows=rows,
            list_index=list_index,
            users=fold.user_numbers[numbers],
            chosen=fold.chosen[rows],
            features=np.concatenate([features, llm_columns(features, raw, list_index)], axis=1),
        )
        said = words
        words = llm_words(words)
        earlier = _Past.of(past, {**fold.columns, **words})
        baseline = FusionHead.fit(dict(fold.columns), fold.features, fold.list_index, fold.chosen, l2, earlier.features)
        by_list, scores, judged_trees = _cross_fitted(fold, read, words, l2, seed, earlier, ranker)
        new = JudgedLists(
            ndcg=np.stack([by_list[order] for order in ("first_stage", "baseline", "fused")], axis=1),
            n_known=fold.n_known,
            users=fold.users,
            recall=fold.recall,
        )
        judged = new if past is None or past.judged is None else new.before(past.judged)
        first, second, third = judged.ndcg.T
        guard = decide(first, second, third, judged.n_known, seed, judged.user_numbers)
        if judged is not new:
            first, second, third = new.ndcg.T
            guard = vetoed(guard, first, second, third, new.user_numbers, seed)
        fused, coefficients = baseline, np.zeros(0)
        new_items: FusionHead | None = None
        of_pages: JudgedNewItems | None = None
        if past is not None:
            coefficients, new_items = past.coefficients, past.new_items
        elif words:
            coefficients = at_unit_scale(raw, spread(raw), read.list_index, read.chosen, l2).weights
            if pages is None:
                values = content(fold.columns, features, raw)
                new_items = head_of_new_items(fold.columns, said, values, read.list_index, read.chosen, l2)
            else:
                of_pages = judge_new_items(pages, baseline, said, l2, seed)
                new_items = of_pages.head if of_pages.verdict.gains else None
        if words:
            on_read = read.features, read.list_index, read.chosen
            fused = fit_fused(baseline, words, *on_read, l2, seed, read.users, earlier.fused)
            fused = replace(
                fused, trees=trees_of_head(judged_trees.get("fused"), *on_read, seed, earlier.trees.get("fused"))
            )
        on_all = fold.features, fold.list_index, fold.chosen
        trees = trees_of_head(judged_trees.get("baseline"), *on_all, seed, earlier.trees.get("baseline"))
        baseline = replace(baseline, trees=trees)
        verdicts = {order: one.verdict for order, one in judged_trees.items()}
        return cls(
            coefficients=coefficients,
            fused=fused if words else baseline,
            features=baseline,
            new_items=new_items,
            new_items_verdict=of_pages.verdict if of_pages else past.new_items_verdict if past else None,
            new_items_validation=of_pages.ndcg if of_pages else {},
            guard=guard,
            validation={order: by_user(values, fold.user_numbers) for order, values in by_list.items()},
            judged=judged,
            own=None if past is None else past.own,
            own_vectors=None if past is None else past.own_vectors,
            trees=verdicts if past is None else past.trees,
            rules=None if past is None else past.rules,
            queries=None if past is None else past.queries,
            scores=scores,
        )

    def orders(
        self,
        features: NDArray[np.float64],
        raw: NDArray[np.float64],
        list_index: IntArray,
        is_new: NDArray[np.bool_],
    ) -> dict[str, NDArray[np.float64]]:
        """(rows,) scores by the baseline (`features`), LLM alone (`llm`) and both (`fused`).

        Args:
            features: (rows, n_features) interaction features, own ones behind them.
            raw: (rows, n_components) what the LLM says.
            list_index: (rows,) 0-based number of the user's list.
            is_new: (rows,) True where nobody chose the item.
        """
        head, both = self.fused_columns(features, raw, list_index, is_new)
        return {"baseline": self.features.score(features), "llm": raw @ self.coefficients, "fused": head.score(both)}

    def fused_columns(
        self,
        features: NDArray[np.float64],
        raw: NDArray[np.float64],
        list_index: IntArray,
        is_new: NDArray[np.bool_],
    ) -> tuple[FusionHead, NDArray[np.float64]]:
        """The head behind the fused order and the (rows, n_columns) values that it weighs; arguments as in `orders`.

        Trees rank new items like all others.
        """
        both = np.concatenate([features, llm_columns(features, raw, list_index)], axis=1)
        if self.new_items is None or self.fused.trees is not None or not is_new.any():
            return self.fused, both
        known = content(self.features.columns, features, raw)
        return self.fused.beside(self.new_items), with_new_items(both, known, list_index, is_new)

    def guarded(self) -> "FusionModel":
        """The model as it is served.

        Where the guard serves the baseline and new items gain by what is read of them, the fused order is the
        baseline's, with new items ranked among themselves. Others are served as they are.
        """
        if self.guard.serve != "baseline" or self.reads_no_new_items or not (self.new_items and self.new_items_verdict):
            return self
        weights = np.append(self.features.logit.weights, np.zeros(len(self.fused.columns) - len(self.features.columns)))
        fused = replace(self.fused, logit=replace(self.features.logit, weights=weights), trees=None)
        trees = {order: verdict for order, verdict in self.trees.items() if order != "fused"}  # which they rank no more
        return replace(self, fused=fused, trees=trees, guard=replace(self.guard, serve="fused", only_new_items=True))

    @property
    def reads_no_new_items(self) -> str:
        """Why the order that the guard serves ranks no new items by what is read of them; "" where it can."""
        if self.guard.serve == "first_stage":
            return "the first-stage order is served"
        trees = (self.fused if self.guard.serve == "fused" else self.features).trees
        return "" if trees is None else "trees rank in the served order"

    def trees_summary(self) -> list[str]:
        """What gradient-boosted trees were worth, for people, a line an order; none where they were not tried."""
        return [verdict.summary(order) for order, verdict in self.trees.items()]

    def to_json(self) -> dict[str, Any]:
        return {
            "coefficients": self.coefficients.tolist(),
            "fused": self.fused.to_json(),
            "baseline": self.features.to_json(),
            **({} if self.new_items is None else {"new_items": self.new_items.to_json()}),
            "guard": self.guard.to_json(),
            **({"trees": {order: one.to_json() for order, one in self.trees.items()}} if self.trees else {}),
            **{name: verdict.to_json() for name in _VERDICTS if (verdict := getattr(self, name)) is not None},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "FusionModel":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            coefficients = np.asarray(data["coefficients"], dtype=np.float64)
            if coefficients.ndim != 1 or not np.isfinite(coefficients).all():
                raise ValueError(f"coefficients {coefficients} are no finite numbers")
            return cls(
                coefficients=coefficients,
                fused=FusionHead.from_json(data["fused"]),
                features=FusionHead.from_json(data["baseline"]),
                new_items=FusionHead.from_json(data["new_items"]) if "new_items" in data else None,
                guard=GuardDecision.from_json(data["guard"]),
                trees={order: TreesVerdict.from_json(one) for order, one in data.get("trees", {}).items()},
                **{name: kind.from_json(data[name]) for name, kind in _VERDICTS.items() if name in data},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"fusion.json is not what this version writes ({error!r}); fit again") from error


def _cross_fitted(
    fold: Choices, read: _ReadLists, words: dict[str, str], l2: float, seed: int, past: _Past, ranker: Ranker
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]], dict[str, JudgedTrees]]:
    """Order -> (n_lists,) NDCG@10 on lists of users that its weights were not fitted on (5-fold cross-fitting).

    And order -> (rows,) the scores behind it, NaN where the LLM read nothing; and what trees would be worth in their
    place, where these are tried. Trees of before rank new lists as they are.

    First stage and features are known for every list of the fold; what the LLM adds to these is known on the lists it
    read, a random sample of those that hold a chosen item, and is extrapolated to all of them: a read list counts as
    many times as there are such lists for one read (Horvitz & Thompson 1952). A list without the user's item counts as
    0 under every order.
    """
    fold_of_row = assign_folds(fold.list_index, fold.chosen, CROSS_FITTING_FOLDS, seed, fold.user_numbers)
    features = np.zeros(len(fold.list_index))
    fused = np.zeros(len(read.rows))
    for number in np.unique(fold_of_row):
        mine = fold_of_row == number
        mine_read = mine[read.rows]
        others = fold.features[~mine], fold.list_index[~mine], fold.chosen[~mine]
        baseline = FusionHead.fit(dict(fold.columns), *others, l2, past.features, remembers=False)
        features[mine] = baseline.score(fold.features[mine])
        if words and mine_read.any():
            others = read.features[~mine_read], read.list_index[~mine_read], read.chosen[~mine_read]
            head = fit_fused(baseline, words, *others, l2, seed, read.users, past.fused, remembers=False)
            fused[mine_read] = head.score(read.features[mine_read])
    judged: dict[str, JudgedTrees] = {}
    tried = not past.trees and past.features is None and (ranker == BOOSTED or (ranker == "auto" and has_lightgbm()))
    lists = np.unique(fold.list_index[read.rows])
    if tried:
        insist = ranker == BOOSTED
        users = fold.user_numbers
        on_all = fold.features, fold.list_index, fold.chosen, fold.n_relevant, users, features, fold_of_row
        judged["baseline"] = judge_trees(*on_all, insist, seed)
        if words:
            on_read = read.features, read.list_index, read.chosen, fold.n_relevant[lists], read.users, fused
            judged["fused"] = judge_trees(*on_read, fold_of_row[read.rows], insist, seed)
    features = _scores("baseline", features, fold.features, judged, past)
    fused = _scores("fused", fused, read.features, judged, past)
    by_first_stage = ndcg_by_list(
        -fold.first_stage_rank.astype(np.float64), fold.list_index, fold.chosen, fold.n_relevant
    )
    by_features = ndcg_by_list(features, fold.list_index, fold.chosen, fold.n_relevant)
    if not words:
        by_list = {"first_stage": by_first_stage, "baseline": by_features, "fused": by_features}
        return by_list, {"baseline": features, "fused": features}, judged
    read_ndcg = ndcg_by_list(fused, read.list_index, read.chosen, fold.n_relevant[lists])
    by_fused = by_features.copy()
    by_fused[lists] += (read_ndcg - by_features[lists]) * len(fold.covered_lists()) / len(lists)
    every = np.full(len(features), np.nan)
    every[read.rows] = fused
    by_list = {"first_stage": by_first_stage, "baseline": by_features, "fused": by_fused}
    return by_list, {"baseline": features, "fused": every}, judged


def _scores(
    order: str,
    linear: NDArray[np.float64],
    features: NDArray[np.float64],
    judged: Mapping[str, JudgedTrees],
    past: _Past,
) -> NDArray[np.float64]:
    """(rows,) scores of what ranks in an order: trees of before, trees that are used now, or the linear weights."""
    if order in past.trees:
        return past.trees[order].score(features)
    return judged[order].scores if order in judged and judged[order].verdict.used else linear
