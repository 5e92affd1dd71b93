"""What own features are worth: columns of real item tables, held back as a shop's own.

`python -m eval.benchmark --data DIR --table own-features` prints it. Prices, years, brands and makers stand in titles
and descriptions of the domains; here they are columns of items. The whole ranker without an LM is fitted twice on the
same windows, with them and without, guard included, and both rank the same test lists. A boosted tree on the same
features, with the columns and without, says whether there is something to gain. A missed choice counts as 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from candidate_gen import DEFAULT_METHOD, make_generator
from eval.checks import Check, reported
from reranker import Reranker, RerankerConfig
from reranker.data.dataset import Dataset
from reranker.data.schema import SCORE, USER
from reranker.data.splits import Fold
from reranker.data.user_rows import pairs_in
from reranker.engines.lexical import LEXICAL
from reranker.evaluation.baselines import GradientBoosted
from reranker.fusion import FEATURES, Choices
from reranker.fusion.own_columns import resolved
from reranker.fusion.statistics import interaction_statistics
from reranker.pipeline.windows import windows_of
from reranker.types import IntArray
from reranker.utils.atomic_io import write_text
from reranker.utils.statistics import Interval, mean_interval, ndcg_by_list

NAME = "own-features"
ASKS = "What do columns of the items' own table add to the ranker, and would a boosted tree find more?"
LENGTH = 50
SPLITS = ("temporal", "leave-last")
Floats = NDArray[np.float64]


def _year(items: pd.DataFrame, column: str) -> pd.Series:
    return pd.to_numeric(items[column].str.extract(r"\b((?:19|20)\d\d)\b")[0])


def _movies(items: pd.DataFrame) -> dict[str, pd.Series]:
    return {"year": _year(items, "title")}


def _giftware(items: pd.DataFrame) -> dict[str, pd.Series]:
    return {"price": pd.to_numeric(items["description"].str.extract(r"£([\d.]+)")[0])}


def _groceries(items: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        "brand": items["title"].str.extract(r"\((\w+) brand\)")[0],
        "department": items["category"].str.split(";").str[0],
    }


def _fiction(items: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        "year": _year(items, "description"),
        "made_with": items["description"].str.extract(r"made with (\w+)")[0],
    }


def _office(items: pd.DataFrame) -> dict[str, pd.Series]:
    return {"brand": items["category"].replace("", None)}


COLUMNS: Mapping[str, Callable[[pd.DataFrame], dict[str, pd.Series]]] = {
    "movies": _movies,
    "ml-100k": _movies,
    "giftware_retail": _giftware,
    "groceries": _groceries,
    "interactive_fiction": _fiction,
    "office_products": _office,
}
"""Domain -> its items' own columns, read from its texts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One domain under one split.

    Attributes:
        first_stage, without, having: (users,) NDCG@10 of the list as it came, of the ranker without own columns, and of
            the ranker that has them.
        tree_without, tree_having: the same of boosted trees.
        kept: whether the guard used the columns.
    """

    first_stage: Floats
    without: Floats
    having: Floats
    tree_without: Floats
    tree_having: Floats
    kept: bool

    @property
    def gain(self) -> Interval:
        """Of the ranker."""
        return mean_interval(self.having - self.without)

    @property
    def tree_gain(self) -> Interval:
        """Of the tree."""
        return mean_interval(self.tree_having - self.tree_without)


def measure(fold: Fold, own: Mapping[str, pd.Series], seed: int = 0) -> Measured:
    """Fits both rankers and both trees on windows of the training part, and ranks the test users' lists."""
    items = fold.items.assign(**own)
    data = Dataset(interactions=fold.train, items=items, domain=fold.domain)
    config = RerankerConfig(
        engine=LEXICAL, scorer="baseline", soft_tokens=0, n_candidates=LENGTH, features=tuple(own), seed=seed
    )
    generator = make_generator(DEFAULT_METHOD, seed=seed).fit(data.interactions)
    windows = windows_of(data, generator, None, None, config)
    bare = config.model_copy(update={"features": ()})
    having = Reranker(config).fit_windows(data, windows, generator)
    without = Reranker(bare).fit_windows(
        data, [window.only_own(columns=False, vectors=False) for window in windows], generator
    )
    lists = generator.recommend(fold.users, LENGTH)
    position = {user: number for number, user in enumerate(fold.users)}
    n_relevant = np.asarray(fold.held_out.groupby(USER, sort=False).size().reindex(fold.users), dtype=np.int64)

    def ndcg(table: pd.DataFrame, scores: Floats) -> Floats:
        index = np.asarray(table[USER].map(position), dtype=np.int64)
        return ndcg_by_list(scores, index, pairs_in(table, fold.held_out), n_relevant)

    def served(reranker: Reranker) -> Floats:
        ranked = reranker.rerank(lists).to_frame()
        return ndcg(ranked, -ranked["rank"].to_numpy(dtype=np.float64))

    columns = resolved(tuple(own), items, None, None)
    statistics = interaction_statistics(data.interactions, items, generator).with_own(columns, items, None)
    features, choices = statistics.features(lists), Choices.joined([window.choices for window in windows])
    trees = [
        ndcg(lists, boosted(choices.features[:, :width], choices.list_index, choices.chosen, seed)(features[:, :width]))
        for width in (len(FEATURES), features.shape[1])
    ]
    assert having.fusion_model is not None and having.fusion_model.own is not None
    return Measured(
        first_stage=ndcg(lists, lists[SCORE].to_numpy(dtype=np.float64)),
        without=served(without),
        having=served(having),
        tree_without=trees[0],
        tree_having=trees[1],
        kept=having.fusion_model.own.keeps,
    )


def boosted(
    features: Floats, list_index: IntArray, chosen: NDArray[np.bool_], seed: int = 0
) -> Callable[[Floats], Floats]:
    """A LambdaMART with the settings of the judge's control, as a function of (rows, n) features."""
    import lightgbm

    control = GradientBoosted(seed=seed)
    order = np.argsort(list_index, kind="stable")
    sizes = np.bincount(list_index)
    data = lightgbm.Dataset(features[order], label=chosen[order].astype(np.int64), group=sizes[sizes > 0])
    booster = lightgbm.train(control.parameters, data, num_boost_round=control.trees)
    return lambda rows: np.asarray(booster.predict(rows), dtype=np.float64)


def run(
    folds_of: Callable[[str], Sequence[Fold]],
    out: Path,
    say: Callable[[str], None],
    splits: Sequence[str] = SPLITS,
) -> list[Check]:
    """Prints one line a domain, and what must be reached; rows go to `out`.

    Args:
        folds_of: split -> its folds; domains without own columns are left out, and named.
        out: folder.
        say: takes each line.
    """
    checks: list[Check] = []
    for split in splits:
        rows = []
        say(f"\n{split}, {LENGTH} candidates by {DEFAULT_METHOD}, NDCG@10, no LM")
        say(
            f"{'domain':<20} {'columns':<22} {'users':>6} {'without':>8} {'with':>8}  gain, then that of a boosted tree"
        )
        for fold in folds_of(split):
            if fold.domain not in COLUMNS:
                say(f"{fold.domain:<20} left out: its items have no own columns")
                continue
            own = COLUMNS[fold.domain](fold.items)
            one = measure(fold, own)
            names = ",".join(own)
            say(
                f"{fold.domain:<20} {names:<22} {len(one.having):>6} {one.without.mean():>8.4f} "
                f"{one.having.mean():>8.4f}  {one.gain} {'' if one.kept else '(left out by the guard) '}| "
                f"{one.tree_without.mean():.4f} {one.tree_having.mean():.4f} {one.tree_gain}"
            )
            rows.append(
                {"split": split, "domain": fold.domain, "columns": names, "users": len(one.having), "kept": one.kept}
                | {"first_stage": one.first_stage.mean(), "without": one.without.mean(), "with": one.having.mean()}
                | {"gain": one.gain.mean, "gain_low": one.gain.low, "gain_high": one.gain.high}
                | {"tree_without": one.tree_without.mean(), "tree_with": one.tree_having.mean()}
                | {"tree_low": one.tree_gain.low, "tree_high": one.tree_gain.high}
            )
            checks.append(_check(split, fold.domain, one))
        write_text(out / split / "domains.csv", pd.DataFrame(rows).to_csv(index=False))
    return checks


def _check(split: str, domain: str, one: Measured) -> Check:
    """Where the tree gains beyond doubt, the ranker must, too; elsewhere the gain is only reported."""
    name = f"{split}: own features, {domain}, [{one.gain.low:+.4f}, {one.gain.high:+.4f}]"
    gain = reported(name, one.gain.mean, "NDCG@10")
    if one.tree_gain.low <= 0:
        return gain
    return replace(gain, target="interval above 0, as the tree's", passed=one.gain.low > 0)
