"""Gradient-boosted trees as the ranker, and their text as data from elsewhere."""

import json
import sys

import numpy as np
import pytest

from reranker.errors import BundleError, ConfigError
from reranker.fusion import FEATURES, Choices, FusionHead, FusionModel
from reranker.fusion.boosted import BoostedTrees, judge_trees
from reranker.fusion.tree_text import MOST_CHARACTERS, rewritten

lightgbm = pytest.importorskip("lightgbm")


def lists(choose, n_lists=300, n_columns=3, seed=0):
    """Lists of five; `choose` says which value a column must have to be chosen: the row with the highest."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_lists * 5, n_columns))
    index = np.repeat(np.arange(n_lists), 5)
    appeal = choose(features).reshape(n_lists, 5)
    chosen = np.zeros((n_lists, 5), dtype=bool)
    chosen[np.arange(n_lists), appeal.argmax(axis=1)] = True
    return features, index, chosen.ravel()


def only_both(features):
    """Chosen is where two columns have the same sign: a product, of which no line knows anything."""
    return features[:, 0] * features[:, 1]


@pytest.fixture(scope="module")
def trees():
    return BoostedTrees.fit(*lists(only_both))


def verdict(choose, insist=False):
    features, index, chosen = lists(choose)
    folds = index % 5
    linear = np.zeros(len(index))
    for number in range(5):
        mine = folds == number
        columns = dict.fromkeys("abc", "")
        linear[mine] = FusionHead.fit(columns, features[~mine], index[~mine], chosen[~mine]).score(features[mine])
    users = np.arange(300)
    return judge_trees(features, index, chosen, np.ones(300, dtype=np.int64), users, linear, folds, insist)


def test_trees_are_used_where_no_line_can_tell():
    judged = verdict(only_both)
    assert judged.verdict.used and judged.verdict.gain.low > 0.05
    assert judged.verdict.summary("baseline").startswith("gradient-boosted trees rank in the baseline order: +")
    assert judged.scale > 1  # the trees are sure of little, their order is right more often than that


def test_where_a_line_is_right_trees_are_not_used_unless_insisted_on():
    def line(features):
        return features[:, 0] + 0.5 * features[:, 1]

    assert not verdict(line).verdict.used
    insisted = verdict(line, insist=True).verdict
    assert insisted.used and insisted.gain.mean < 0


def test_the_same_lists_and_seed_give_the_same_trees(trees):
    assert BoostedTrees.fit(*lists(only_both)).model == trees.model
    features, index, chosen = lists(only_both)
    mixed = np.random.default_rng(1).permutation(len(index))
    shuffled = BoostedTrees.fit(features[mixed], index[mixed], chosen[mixed])
    assert shuffled.score(features).shape == (1500,)


def test_contributions_add_up_to_the_score(trees):
    features, *_ = lists(only_both, n_lists=4, seed=5)
    given = trees.contributions(features)
    apart = trees.score(features) - given.sum(axis=1)
    assert apart == pytest.approx(np.full(len(features), apart[0]))
    assert np.abs(given[:, :2]).sum() > 10 * np.abs(given[:, 2]).sum()
    assert trees.shares()[:2].sum() > 0.8 and trees.shares().sum() == pytest.approx(1)


def test_written_anew_they_score_as_lightgbm_did(trees):
    features, _, chosen = lists(only_both)
    data = lightgbm.Dataset(features, label=chosen.astype(int), group=[5] * 300)
    settings = {"objective": "lambdarank", "num_leaves": 7, "verbose": -1, "num_threads": 1, "seed": 0}
    booster = lightgbm.train(settings, data, num_boost_round=20)
    text = rewritten(booster.model_to_string(), 3)
    again = BoostedTrees(model=text)
    assert again.score(features) == pytest.approx(booster.predict(features), abs=1e-12)
    assert rewritten(text, 3) == text


def test_trees_that_cannot_split_are_constant():
    features, index, chosen = lists(only_both, n_lists=4)
    few = BoostedTrees.fit(features, index, chosen)
    assert len(set(few.score(features).tolist())) == 1
    assert rewritten(few.model, 3) == few.model


def test_they_survive_json(trees):
    again = BoostedTrees.from_json(json.loads(json.dumps(trees.to_json())), 3)
    assert again.model == trees.model and again.scale == trees.scale
    for damage in ({"scale": 0}, {"scale": "x"}, {"scale": None}, {"model": 7}, {"scale": float("nan")}):
        with pytest.raises(BundleError, match="trees"):
            BoostedTrees.from_json({**trees.to_json(), **damage}, 3)


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("split_feature=", "split_feature=9", "split_feature must be|split_feature of"),
        ("left_child=", "left_child=0 ", "left_child"),
        ("right_child=", "right_child=1e9 ", "right_child"),
        ("leaf_value=", "leaf_value=nan ", "leaf_value"),
        ("threshold=", "threshold=inf ", "threshold"),
        ("num_leaves=", "num_leaves=9", "1 to 255 leaves|must be"),
        ("num_cat=0", "num_cat=1", "constant values"),
        ("is_linear=0", "is_linear=1", "constant values"),
        ("shrinkage=", "cat_threshold=1\nshrinkage=", "other fields"),
        ("shrinkage=", "shrinkage=0.1\nshrinkage=", "other fields"),
        ("Tree=0", "Tree=7", "stands at the place of tree 0"),
        ("leaf_count=", "leaf_count=99999999999999999999 ", "leaf_count"),
        ("tree\n", "forest\n", "no LightGBM text model"),
        ("end of trees", "", "no LightGBM text model"),
    ],
)
def test_a_damaged_text_is_refused(trees, before, after, what):
    assert before in trees.model
    with pytest.raises(BundleError, match=what):
        rewritten(trees.model.replace(before, after, 1), 3)


def test_trees_that_run_in_a_circle_or_out_of_their_columns_are_refused():
    features, index, chosen = lists(only_both)
    text = BoostedTrees.fit(features, index, chosen).model
    tree = dict(line.split("=", 1) for line in text.split("\nTree=0\n")[1].split("\n\n")[0].split("\n"))
    children = tree["left_child"].split()
    inner = next(at for at, child in enumerate(children) if int(child) > 0)
    circle = " ".join("0" if at == inner else child for at, child in enumerate(children))
    with pytest.raises(BundleError, match="children"):
        rewritten(text.replace(f"left_child={tree['left_child']}", f"left_child={circle}", 1), 3)
    with pytest.raises(BundleError, match="split_feature"):
        rewritten(text, 1)
    with pytest.raises(BundleError, match="characters"):
        rewritten("x" * (MOST_CHARACTERS + 1), 3)


def choices(choose, n_lists=200):
    features, index, chosen = lists(choose, n_lists, len(FEATURES))
    return Choices(
        features=features,
        list_index=index,
        chosen=chosen,
        first_stage_rank=np.tile(np.arange(1, 6), n_lists),
        n_relevant=np.ones(n_lists, dtype=np.int64),
        n_known=np.full(n_lists, 5),
        users=[f"u{number}" for number in range(n_lists)],
    )


def test_the_model_ranks_by_what_was_judged_and_keeps_it():
    fold = choices(only_both)
    nothing = {number: np.zeros((5, 0)) for number in range(200)}
    plain, automatic, insisted = (
        FusionModel.fit(fold, nothing, {}, ranker=ranker) for ranker in ("linear", "auto", "gradient_boosted")
    )
    assert plain.features.trees is None and not plain.trees
    for model in (automatic, insisted):
        assert model.features.trees is not None and model.trees["baseline"].used
        assert model.guard.baseline_minus_first_stage.mean > plain.guard.baseline_minus_first_stage.mean
        again = FusionModel.from_json(json.loads(json.dumps(model.to_json())))
        assert (again.features.score(fold.features) == model.features.score(fold.features)).all()
        assert again.trees == model.trees
        assert "of what the trees gained" in model.features.summary(most=1)[0]
    later = FusionModel.fit(
        choices(only_both, 100), {number: np.zeros((5, 0)) for number in range(100)}, {}, past=insisted
    )
    assert later.features.trees.model == insisted.features.trees.model and later.trees == insisted.trees


def test_without_lightgbm_linear_weights_rank_and_insisting_says_what_to_install(monkeypatch):
    monkeypatch.setattr("reranker.fusion.model.has_lightgbm", lambda: False)
    fold, nothing = choices(only_both, 40), {number: np.zeros((5, 0)) for number in range(40)}
    assert FusionModel.fit(fold, nothing, {}, ranker="auto").features.trees is None
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"pip install 'reranker\[boosted\]'"):
        FusionModel.fit(fold, nothing, {}, ranker="gradient_boosted")
