"""Features of the user's own columns, worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from reranker.data.item_lists import ItemLists
from reranker.errors import BundleError, ConfigError, DataError
from reranker.fusion import FEATURES, Choices
from reranker.fusion.own_columns import OwnColumn, as_numbers, resolved, unused
from reranker.fusion.own_features import OwnFeatures, shrunk_log_ratio
from reranker.fusion.own_judged import OwnVerdict, auc_within_lists, first_columns, judge_own

ITEMS = pd.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "title": list("abcd"),
        "price": [1.0, 10.0, 100.0, None],
        "brand": ["x", "x", "y", None],
        "url": ["u1", "u2", "u3", "u4"],
        "added": pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]),
    }
)
USERS = pd.DataFrame({"user_id": ["u", "v"], "segment": ["s", "t"], "age": [20, 40]})
CANDIDATES = pd.DataFrame(
    {
        "user_id": ["u"] * 4,
        "item_id": list("abcd"),
        "score": [4.0, 3, 2, 1],
        "rank": [1, 2, 3, 4],
        "ctr": [0.1, 0.4, 0.2, 0.3],
    }
)
INDEX = {"a": 0, "b": 1, "c": 2, "d": 3}
HISTORIES = {"u": np.array([0, 0, 1]), "v": np.array([2])}


def features(names, candidates=CANDIDATES, histories=HISTORIES, items=ITEMS):
    columns = resolved(names, items, USERS, candidates)
    own = OwnFeatures.fit(columns, INDEX, histories, items, USERS)
    rows = candidates["item_id"].map(INDEX).fillna(-1).to_numpy(dtype=np.int64)
    signal = np.array([1.0, 0.5, -0.5, -1.0])[: len(candidates)]
    values = own.values(ItemLists.of(candidates), rows, histories, acted_on(signal))
    return dict(zip(own.words, values.T, strict=True))


def acted_on(signal):
    """Interaction features: popularity is `signal`, the others multiples of it."""
    factors = {"popularity": 1, "first_stage_score": 2, "recent_popularity": 3, "covisit_mean": 4}
    return {name: factors.get(name, 0) * signal for name in FEATURES}


def z(values):
    values = np.asarray(values, dtype=np.float64)
    return (values - values.mean()) / values.std()


def test_a_number_is_its_place_among_the_values_of_its_table():
    # of 1, 10, 100 the mid-ranks are 1/6, 3/6, 5/6, less one half; d has none and takes the list's mean
    found = features(["price"])
    assert list(found) == ["items.price", "items.price:distance", "items.price:missing"]
    assert found["items.price"] == pytest.approx(z([-1 / 3, 0, 1 / 3, 0]))
    mean = (-1 / 3 - 1 / 3 + 0) / 3  # u chose a twice and b once
    away = [abs(place - mean) for place in (-1 / 3, 0, 1 / 3)]
    assert found["items.price:distance"] == pytest.approx(z([*away, np.mean(away)]))
    assert found["items.price:missing"] == pytest.approx(z([0, 0, 0, 1]))


def test_an_outlier_weighs_no_more_than_its_place():
    rich = ITEMS.assign(price=[1.0, 10.0, 1e9, None])
    for name, values in features(["price"], items=rich).items():
        assert values == pytest.approx(features(["price"])[name])


def test_a_category_is_told_by_earlier_choices_shrunk():
    found = features(["brand"])
    assert list(found) == ["items.brand:popularity", "items.brand:affinity", "items.brand:missing"]
    # x: 3 choices of 2 items, y: 1 of 1; the mean of all four items is 1
    x, y = np.log1p((3 + 5) / (2 + 5)), np.log1p((1 + 5) / (1 + 5))
    assert found["items.brand:popularity"] == pytest.approx(z([x, x, y, np.mean([x, x, y])]))
    shares = (3 + 1) / (4 + 2), (1 + 1) / (4 + 2)
    x, y = np.log((3 + 1) / (3 * shares[0] + 1)), np.log((0 + 1) / (3 * shares[1] + 1))
    assert found["items.brand:affinity"] == pytest.approx(z([x, x, y, np.mean([x, x, y])]))


def test_users_columns_act_on_items():
    found = features(["segment", "age"])
    total = 4 + 0.5 * 4
    shares = np.array([2, 1, 1, 0]) / total + 0.5 / total
    assert found["users.segment:lift"] == pytest.approx(z(np.log((np.array([2, 1, 0, 0]) + 5) / (3 * shares + 5))))
    assert found["users.age:x_popularity"] == pytest.approx(-0.25 * np.array([1, 0.5, -0.5, -1]))
    assert found["users.age:x_first_stage_score"] == pytest.approx(-0.5 * np.array([1, 0.5, -0.5, -1]))


def test_a_new_user_has_nothing_of_users_and_no_affinity():
    new = CANDIDATES.assign(user_id="new")
    for name, values in features(["segment", "age", "brand"], new).items():
        if not name.startswith("items.brand:"):
            assert values == pytest.approx(np.zeros(4)), name
    assert features(["brand"], new)["items.brand:affinity"] == pytest.approx(np.zeros(4))


def test_columns_of_candidates():
    found = features(["ctr"])
    assert found["candidates.ctr"] == pytest.approx(z([1, 4, 2, 3]))
    source = CANDIDATES.assign(source=["als", "als", "new", None])
    found = features(["source"], source)
    assert list(found) == ["candidates.source=als", "candidates.source=new", "candidates.source:missing"]
    assert found["candidates.source=als"] == pytest.approx(z([1, 1, 0, 2 / 3]))
    columns = resolved(["ctr"], ITEMS, None, CANDIDATES)
    own = OwnFeatures.fit(columns, INDEX, HISTORIES, ITEMS, None)
    with pytest.raises(DataError, match="lacks the column 'ctr', which the ranker was fitted with"):
        own.values(ItemLists.of(CANDIDATES.drop(columns="ctr")), np.arange(4), HISTORIES, acted_on(np.zeros(4)))


def test_a_number_of_the_moment_acts_on_interaction_features():
    two = pd.concat([CANDIDATES.assign(user_id=user, away=away) for user, away in (("u", 1.0), ("v", 9.0))])
    column = resolved(["away"], ITEMS, USERS, two)[0]
    assert column.of_list and OwnColumn.from_json(json.loads(json.dumps(column.to_json()))) == column
    own = OwnFeatures.fit([column], INDEX, HISTORIES, ITEMS, USERS)
    signal = np.array([1.0, 0.5, -0.5, -1.0] * 2)
    found = dict(
        zip(
            own.words,
            own.values(ItemLists.of(two), np.tile(np.arange(4), 2), HISTORIES, acted_on(signal)).T,
            strict=True,
        )
    )
    level = np.repeat([-0.25, 0.25], 4)  # of two values, the mid-ranks are 1/4 and 3/4
    for name, factor in (("popularity", 1), ("recent_popularity", 3), ("covisit_mean", 4)):
        assert found[f"candidates.away:x_{name}"] == pytest.approx(level * factor * signal)
    assert len(found) == 3
    unknown = own.values(ItemLists.of(two.assign(away=np.nan)), np.tile(np.arange(4), 2), HISTORIES, acted_on(signal))
    assert (unknown == 0).all()
    with pytest.raises(ConfigError, match="the same text throughout each list"):
        resolved(["day"], ITEMS, USERS, two.assign(day=np.where(two["user_id"] == "u", "Monday", "Sunday")))


def test_unknown_items_have_no_values():
    strange = CANDIDATES.assign(item_id=["a", "b", "c", "zz"])
    assert features(["price"], strange)["items.price:missing"] == pytest.approx(z([0, 0, 0, 1]))


def test_the_same_of_every_list_says_nothing():
    same = CANDIDATES[:2]
    assert features(["brand"], same)["items.brand:popularity"] == pytest.approx([0, 0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["prize"], "no table has a column 'prize'. There are, candidates: ctr; items: price, brand, url, added"),
        (["url"], "4 different texts in 4 rows|different texts"),
        (["price", "items.price"], "items.price is asked for twice"),
        (["users.price"], "no table has a column 'users.price'"),
    ],
)
def test_columns_that_cannot_be_features_are_refused(names, message):
    items = pd.concat([ITEMS.assign(item_id=ITEMS["item_id"] + str(n), url=ITEMS["url"] + str(n)) for n in range(10)])
    with pytest.raises(ConfigError, match=message):
        resolved(names, items, USERS, CANDIDATES)


def test_a_column_of_two_tables_needs_the_table():
    users = USERS.assign(price=[1, 2])
    with pytest.raises(ConfigError, match=r"ask for items\.price or users\.price"):
        resolved(["price"], ITEMS, users, None)
    assert [one.key for one in resolved(["users.price"], ITEMS, users, None)] == ["users.price"]


def test_one_value_only_is_no_feature():
    with pytest.raises(ConfigError, match="one value only"):
        resolved(["flag"], ITEMS.assign(flag=True), None, None)
    with pytest.raises(ConfigError, match="holds nothing"):
        resolved(["flag"], ITEMS.assign(flag=None), None, None)


def test_what_could_be_a_feature_is_named():
    assert unused(["price"], ITEMS, USERS) == ["items.brand", "items.url", "items.added", "users.segment", "users.age"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], [1, 0]),
        (["1.5", "2"], [1.5, 2]),
        (["2026-01-01", "2026-01-02T12:00:00+00:00"], [1767225600, 1767355200]),
        (pd.to_datetime(["2026-01-01"]), [1767225600]),
        (["red", "2"], None),
        ([float("inf")], None),
    ],
)
def test_numbers_truth_values_and_dates(values, expected):
    found = as_numbers(pd.Series(values))
    assert found is None if expected is None else found.tolist() == expected


def test_columns_survive_json():
    columns = resolved(["price", "brand", "ctr"], ITEMS, None, CANDIDATES)
    assert tuple(OwnColumn.from_json(json.loads(json.dumps(one.to_json()))) for one in columns) == columns
    good = columns[0].to_json()
    for name, value in (("knots", [3, 2, 1]), ("places", [0.0]), ("kind", "text"), ("source", "moon"), ("knots", [])):
        with pytest.raises(BundleError, match="own features"):
            OwnColumn.from_json({**good, name: value})


def test_little_is_known_of_few():
    ratios = shrunk_log_ratio(np.array([0.0, 1, 100]), np.array([0.0, 0, 50]), 5.0)
    assert ratios == pytest.approx([0, np.log(6 / 5), np.log(105 / 55)])


def test_a_long_scale_keeps_its_quantiles():
    column = OwnColumn.of("items", pd.Series(np.arange(10_000.0), name="n"))
    assert len(column.knots) <= 256
    assert column.scaled(pd.Series([0.0, 4999.5, 9999.0, 1e9])) == pytest.approx([-0.5, 0, 0.5, 0.5], abs=1e-3)


def choices(own, n_lists=40, seed=0):
    """Lists of five with one chosen; `own(chosen, rng)` gives the values of one own feature."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros((n_lists, 5), dtype=bool)
    chosen[np.arange(n_lists), rng.integers(5, size=n_lists)] = True
    flat = chosen.ravel()
    index = np.repeat(np.arange(n_lists), 5)
    plain = rng.normal(size=(len(flat), len(FEATURES)))
    return Choices(
        features=np.column_stack([plain, own(flat.astype(float), rng)]),
        list_index=index,
        chosen=flat,
        first_stage_rank=np.tile(np.arange(1, 6), n_lists),
        n_relevant=np.ones(n_lists, dtype=np.int64),
        n_known=np.full(n_lists, 5),
        users=[f"u{number}" for number in range(n_lists)],
        columns={**FEATURES, "items.mine": "mine"},
    )


def test_the_auc_is_counted_within_lists_and_ties_are_half():
    values = np.array([3.0, 1, 2, 5, 5, 9])
    chosen = np.array([True, False, False, True, False, False])
    assert auc_within_lists(values, np.array([0, 0, 0, 1, 1, 1]), chosen) == pytest.approx((1 + 0.25) / 2)
    assert auc_within_lists(values, np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, dtype=bool)) == 0.5


@pytest.mark.parametrize("sign", [1, -1])
def test_a_column_that_was_written_after_the_choice_is_refused_by_name(sign):
    with pytest.raises(DataError, match=r"items\.mine \(AUC .*was written after the choice"):
        judge_own(choices(lambda chosen, rng: sign * chosen + 0.1 * rng.random(len(chosen))))


def test_what_adds_is_kept_and_what_takes_away_is_not():
    good = judge_own(choices(lambda chosen, rng: chosen + rng.normal(size=len(chosen)), n_lists=200))
    assert good.keeps and good.gain.low > 0
    assert good.features == ("items.mine",)
    assert "own features are used" in good.summary()
    noise = [judge_own(choices(lambda chosen, rng: rng.normal(size=len(chosen)), 200, seed)) for seed in range(4)]
    assert any(not one.keeps for one in noise)
    assert all(one.gain.low < 0 for one in noise)
    assert OwnVerdict.from_json(json.loads(json.dumps(good.to_json()))) == good
    with pytest.raises(BundleError, match="own features"):
        OwnVerdict.from_json({"gain": {}})


def test_without_own_features_the_interaction_features_stay():
    some = choices(lambda chosen, rng: chosen)
    plain = first_columns(some)
    assert plain.features.shape[1] == len(FEATURES) == len(plain.columns)
    assert Choices.joined([some, some]).columns == some.columns
