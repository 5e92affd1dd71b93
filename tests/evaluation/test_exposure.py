"""Exposure, calibration to the user's own mix, and quality by group: values worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from reranker.errors import DataError
from reranker.evaluation import Results, Settings, write_report, write_results
from reranker.evaluation.exposure import SMOOTHING, divergence, exposures, share_rows
from reranker.evaluation.item_groups import NONE, UNKNOWN, item_groups
from reranker.evaluation.runner import Run
from reranker.evaluation.user_groups import NOT_GIVEN, group_qualities, read_user_groups, single_users
from tests.evaluation.toys import lists_of

ITEMS = {"a": ("x", "A"), "b": ("x", "B"), "c": ("y", "A, B"), "d": (None, None), "h": ("y", "A")}


def shop(proposals=None, targets=None, history=None):
    lists = lists_of(
        proposals or {"u": "a b c", "v": "a c z"},
        targets or {"u": "b", "v": "c"},
        history or {"u": "h", "v": "h"},
        list(ITEMS),
    )
    items = lists.fold.items.assign(
        provider=[provider for provider, _ in ITEMS.values()], category=[names for _, names in ITEMS.values()]
    )
    return replace(lists, fold=replace(lists.fold, items=items))


def results_of(lists, **systems):
    """Results of systems that are given by their scores."""
    runs = [
        Run(
            lists=lists, system=name, seed=0, scores=np.asarray(scores, dtype=float), fit_seconds=0, score_seconds=0,
            tokens=float("nan"),
        )
        for name, scores in systems.items()
    ]  # fmt: skip
    settings = Settings(candidates=(lists.n,), protocols=("end_to_end",))
    rows = pd.DataFrame(columns=["protocol", "candidates", "metric", "k", "domain", "split", "system", "value"])
    return Results(rows=rows, comparisons=[], runs=runs, settings=settings)


def exposure_of(grouping, lists=None, k=2, **systems):
    lists = lists or shop()
    found = exposures(results_of(lists, **(systems or {"first_stage": [3, 2, 1, 3, 2, 1]})), k)
    return [one for one in found if one.grouping == grouping]


def test_an_item_of_two_categories_counts_half_in_each_and_one_without_any_is_named():
    by_name = {one.name: one for one in item_groups(shop().fold)}
    category = by_name["category"]
    assert category.groups == ("A", "B", NONE, UNKNOWN)
    of = category.of(pd.Series(["c", "d", "z"])).toarray()
    assert of.tolist() == [[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(category.catalogue_shares(), [2.5 / 5, 1.5 / 5, 1 / 5, 0])
    assert by_name["popularity"].of(pd.Series(["h", "a"])).toarray().argmax(axis=1).tolist() == [0, 3]
    with pytest.raises(DataError, match="no column 'maker' to name providers; it has item_id, title, provider"):
        item_groups(shop().fold, "maker")


def test_exposure_is_by_place():
    """u: a (x) first, b (x) second; v: a (x) first, c (y) second. A place k weighs 1 / log2(k + 1)."""
    (found,) = exposure_of("provider")
    second = 1 / np.log2(3)
    whole = 2 + 2 * second
    shares = {one.group: one.share for one in found.groups}
    assert shares == pytest.approx({"x": (2 + second) / whole, "y": second / whole, NONE: 0})
    assert [one.group for one in found.groups] == ["x", "y", NONE]
    assert found.coverage == pytest.approx(2 / 3)  # d's provider, who is none, is never shown
    x, y = (2 + second) / whole, second / whole
    assert found.gini.mean == pytest.approx((2 * x - 0 * y - 2 * 0) / 3)  # weights -2, 0, 2 of shares 0, y, x
    assert {one.group: one.of_choices for one in found.groups} == {"x": 0, "y": 1, NONE: 0}


def test_intervals_are_over_users():
    """u is shown x alone, v mostly x: each resample is one of three mixes of the two."""
    (found,) = exposure_of("provider")
    second = 1 / np.log2(3)
    x = next(one for one in found.groups if one.group == "x")
    assert (x.low, x.high) == pytest.approx((1 / (1 + second), 1.0))
    (alone,) = exposure_of("provider", shop({"u": "a b c"}, {"u": "b"}, {"u": "h"}), first_stage=[3, 2, 1])
    assert np.isnan([alone.groups[0].low, alone.gini.low, alone.miscalibration.low]).all()


def test_miscalibration_is_that_of_steck():
    """u chose h (A). First two places: a (A), b (B): q(A) = 1/2. v: a (A), c (half A): q(A) = 3/4."""
    (found,) = exposure_of("category")
    terms = [np.log(1 / ((1 - SMOOTHING) * q + SMOOTHING)) for q in (0.5, 0.75)]
    assert found.miscalibration.mean == pytest.approx(np.mean(terms))
    assert found.over_baseline is None


def test_a_list_closer_to_the_user_s_mix_has_less_of_it():
    """The other system puts c (half A) in the place of b (B) for u and leaves v alone."""
    first, other = exposure_of("category", first_stage=[3, 2, 1, 3, 2, 1], other=[3, 1, 2, 3, 2, 1])
    gap = np.log(1 / ((1 - SMOOTHING) * 0.75 + SMOOTHING)) - np.log(1 / ((1 - SMOOTHING) * 0.5 + SMOOTHING))
    assert other.over_baseline.mean == pytest.approx(gap / 2) and gap < 0
    assert first.over_baseline is None


def test_users_without_a_history_are_counted_and_left_out():
    lists = shop()
    history = lists.fold.history[lists.fold.history["user_id"] == "u"]
    lists = replace(lists, fold=replace(lists.fold, history=history))
    (found,) = exposure_of("category", lists)
    assert found.no_history == 1 and found.miscalibration.n == 1


@given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=2, max_size=6))
def test_the_divergence_is_0_for_the_own_mix_and_bounded(counts):
    mixes = np.array(counts, dtype=float) + np.array([1, 0, 0])
    mixes /= mixes.sum(axis=1, keepdims=True)
    own = sparse.csr_array(mixes)
    np.testing.assert_allclose(divergence(own, own), 0, atol=1e-12)
    others = divergence(own, sparse.csr_array(mixes[::-1]))
    assert (others >= 0).all() and (others <= -np.log(SMOOTHING) + 1e-9).all()


def test_the_largest_groups_are_shown_and_the_rest_is_counted():
    found = exposure_of("category", k=3)
    header, rows = share_rows(found, most=1)
    assert header == ["", "first_stage", "of choices", "of the catalogue"]
    assert rows[0][0] == "A" and rows[1][0] == "(3 more)"
    assert len(share_rows(found)[1]) == 4


def users_table():
    return pd.DataFrame({"user_id": ["u", "w", "stranger"], "region": ["north", "south", "south"]})


def four_users():
    proposals = {"u": "a b c", "v": "a c d", "w": "b c d", "x": "d c b"}
    return shop(proposals, {"u": "a", "v": "c", "w": "b", "x": "a"}, dict.fromkeys("uvwx", "h"))


def test_quality_by_group_is_the_mean_of_its_users():
    scores = {"first_stage": [3, 2, 1] * 4, "other": [1, 2, 3] * 4}
    found = group_qualities(results_of(four_users(), **scores), read_user_groups(users_table()))
    by_key = {(one.system, one.grouping, one.group): one for one in found}
    lengths = by_key["first_stage", "history length", "1-2"]
    assert lengths.value.n == 4 and lengths.value.mean == pytest.approx((1 + 1 / np.log2(3) + 1 + 0) / 4)
    north, rest = (by_key["other", "region", name] for name in ("north", NOT_GIVEN))
    assert north.value.mean == pytest.approx(0.5) and north.gain.mean == pytest.approx(-0.5)
    assert rest.value.n == 2 and by_key["first_stage", "region", "north"].gain is None


def test_a_group_of_one_user_is_named_and_has_no_interval():
    found = group_qualities(results_of(four_users(), first_stage=[3, 2, 1] * 4), read_user_groups(users_table()))
    assert single_users(found) == ["region: north", "region: south"]
    alone = next(one for one in found if one.group == "north")
    assert np.isnan(alone.value.low) and np.isnan(alone.value.high)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"user_id": ["u"]}, "no column beside"),
        ({"user_id": ["u", "u"], "region": ["a", "b"]}, "user 'u' stands 2 times"),
        ({"user_id": range(60), "born": range(60)}, "'born': 60 groups, at most 50"),
        ({"region": ["a"]}, "user_id"),
    ],
)
def test_a_table_of_users_that_makes_no_groups_is_refused(table, words):
    with pytest.raises(DataError, match=words):
        read_user_groups(pd.DataFrame(table))


def test_a_table_of_other_users_is_refused():
    table = pd.DataFrame({"user_id": ["nobody"], "region": ["north"]})
    with pytest.raises(DataError, match="none of the 4 test users"):
        group_qualities(results_of(four_users(), first_stage=[3, 2, 1] * 4), table)


def test_report_and_json_have_them(tmp_path):
    results = results_of(four_users(), first_stage=[3, 2, 1] * 4, other=[1, 2, 3] * 4)
    shown, groups = exposures(results), group_qualities(results, users_table())
    results.rows.loc[0] = ["end_to_end", 3, "ndcg", 10, "toy", "hand_made", "other", 0.5]
    write_report(results, tmp_path / "report.html", exposures=shown, groups=groups)
    text = (tmp_path / "report.html").read_text()
    for words in ("Who is shown", "miscalibration", "Quality by user group", "region: north", "one user, no interval"):
        assert words in text, words
    written = write_results(results, tmp_path, further={"exposure": [one.record() for one in shown]})
    assert json.loads((tmp_path / "results.json").read_text())["exposure"] == written["exposure"]
    assert {one["grouping"] for one in written["exposure"]} == {"provider", "category", "popularity"}
