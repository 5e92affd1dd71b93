"""Events, ratings and weights become one strength a row, once, and what cannot be read is refused with the way out."""

import numpy as np
import pandas as pd
import pytest

from reranker import Dataset
from reranker.data.schema import validate_interactions
from reranker.data.signals import RowSignals, Signals, rating_strengths, split_by_sign, targets_of, told, with_strengths
from reranker.errors import ConfigError, DataError
from reranker.types import Signal

ITEMS = pd.DataFrame({"item_id": list("abcd"), "title": list("ABCD")})


def rows(n=4, **columns):
    return pd.DataFrame({"user_id": [1] * n, "item_id": list("abcd")[:n], "timestamp": range(n), **columns})


def strengths(signals=None, **columns):
    return validate_interactions(rows(**columns), signals=signals)["strength"].tolist()


def test_events_have_strengths_however_they_are_written():
    assert strengths(event=["view", "Add_To-Cart", "PURCHASE", "skip"]) == [1.0, 3.0, 5.0, -1.0]
    own = Signals(event_weights={"purchase": 9, "hide": -2})
    assert strengths(own, event=["view", "purchase", "Hide", "like"]) == [1.0, 9.0, -2.0, 5.0]


@pytest.mark.parametrize(
    ("scale", "ratings", "expected"),
    [
        ((1, 5), [1, 2, 3, 4, 5], [-5.0, -2.5, 2.5, 3.75, 5.0]),
        ((0.5, 5), [0.5, 2.75, 5], [-5.0, 2.5, 5.0]),
        ((1, 10), [1, 5.5, 10], [-5.0, 2.5, 5.0]),
        ((0, 100), [0, 25, 50, 75], [-5.0, -2.5, 2.5, 3.75]),
    ],
)
def test_ratings_below_the_middle_of_their_scale_are_dislikes(scale, ratings, expected):
    assert rating_strengths(np.array(ratings, dtype=float), scale).tolist() == expected


@pytest.mark.parametrize(
    ("ratings", "scale"), [([1, 2, 4, 5], (1, 5)), ([0.5, 3, 4, 5], (0.5, 5)), ([2, 6, 7, 10], (1, 10))]
)
def test_the_scale_is_told_from_the_ratings_and_kept(ratings, scale):
    data = Dataset(interactions=rows(rating=ratings), items=ITEMS)
    assert data.signals.rating_scale == scale
    low, high = scale
    assert told(data.interactions, data.signals)[0].startswith(f"ratings of {low:g}-{high:g} (below ")
    only_good = data.with_interactions(data.interactions.tail(1))  # of which alone no scale could be told
    assert only_good.interactions["strength"].tolist() == [5.0]


def test_a_rating_counts_before_an_event_and_a_weight_multiplies_both():
    table = {"event": ["rate", "view", "purchase", None], "rating": [5, None, 1, 4], "weight": [1.0, 3.0, 2.0, 0.0]}
    assert strengths(**table) == [5.0, 3.0, -10.0, 0.0]


def test_what_says_the_same_of_every_row_says_nothing():
    assert "strength" not in validate_interactions(rows(weight=2.0))
    assert "strength" not in validate_interactions(rows(rating=1.0))  # as a count that was called a rating
    assert "strength" in validate_interactions(rows(rating=1.0), signals=Signals(rating_scale=(1, 5)))
    assert "strength" not in validate_interactions(rows())


def test_own_strengths_are_taken_as_they_are():
    assert strengths(strength=[1, -1, 0.5, 2], event=["a", "b", "c", "d"]) == [1.0, -1.0, 0.5, 2.0]
    validated = validate_interactions(rows(event=["view", "like", "skip", "dislike"]))
    pd.testing.assert_frame_equal(
        validate_interactions(validated, signals=Signals(event_weights={"view": 7})), validated
    )


def test_what_a_user_says_of_an_item_is_added_up():
    """1: view and dislike of a (-4); 2: purchase and dislike of a (0); 3: two views and a skip of b (1)."""
    table = pd.DataFrame(
        {
            "user_id": [1, 1, 2, 2, 3, 3, 3],
            "item_id": ["a", "a", "a", "a", "b", "b", "b"],
            "event": ["view", "dislike", "purchase", "dislike", "view", "view", "skip"],
        }
    )
    said = RowSignals.of(validate_interactions(table))
    assert said.chosen.tolist() == [False] * 4 + [True, True, False]
    assert said.disliked.tolist() == [True, True] + [False] * 5
    assert said.relative[said.chosen].tolist() == [1.0, 1.0]  # in units of the mean choice
    spoken = [("a", 1.0), ("b", 5.0), ("a", -5.0), ("c", 1.0), ("c", -1.0), ("b", 1.0)]
    assert split_by_sign(spoken) == (["b", "b"], ["a"])


def test_targets_are_choices_of_the_kinds_asked_for():
    table = validate_interactions(rows(event=["view", "Purchase", "dislike", "cart"]))
    assert targets_of(table, Signals()).tolist() == [True, True, False, True]
    assert targets_of(table, Signals(target_events=("purchase", "dislike"))).tolist() == [False, True, False, False]
    assert targets_of(validate_interactions(rows()), Signals(target_events=("purchase",))).all()


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"event": ["view", "hover", "hover", "x"]}, r"'hover' \(2 rows\), 'x' \(1 rows\).*--event-weights hover=1"),
        ({"event": ["view", None, "like", "like"]}, "column 'event': the value is missing and no rating"),
        ({"rating": [0, 4, 5, 5]}, "values from 0 to 5 are of no scale.*0 often stands for no rating"),
        ({"rating": [1, 4, 5, 60]}, "values from 1 to 60 are of no scale.*--rating-scale.*counts belong"),
        ({"rating": [1, None, 5, 2]}, "column 'rating': the value is missing and no 'event'"),
        ({"rating": [1, "good", 5, 2]}, r"column 'rating': the value is not a finite number \(row 1: 'good'"),
        ({"event": "view", "weight": [1, 2, -1, 1]}, "column 'weight': the value is below 0 beside an event"),
        ({"strength": [1, np.nan, 1, 1]}, "column 'strength': the value is not a finite number"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_out(columns, problem):
    with pytest.raises(DataError, match=problem):
        Dataset(interactions=rows(**columns), items=ITEMS)


def test_ratings_out_of_the_scale_that_was_given_are_refused():
    with pytest.raises(DataError, match=r"column 'rating': the value lies outside the scale 1-5; .*row 3: 7.0"):
        with_strengths(rows(rating=[1.0, 2.0, 3.0, 7.0]), Signals(rating_scale=(1, 5)), "interactions")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rating_scale": (5, 1)}, "rating_scale: .*lowest and the highest"),
        ({"event_weights": {"view": float("nan")}}, "the strength of view is not a finite number"),
        ({"repeats": "sometimes"}, "repeats: .*'left out' or 'allowed'"),
        ({"weights": {}}, "Known keys: event_weights, rating_scale, target_events, repeats"),
    ],
)
def test_impossible_settings_are_refused(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        Signals.from_mapping(settings)


def test_target_events_that_are_nowhere_are_refused():
    asked = Signals(target_events=("purchase",))
    with pytest.raises(DataError, match="no interaction is a purchase; there are view"):
        Dataset(interactions=rows(event="view"), items=ITEMS, signals=asked)
    with pytest.raises(DataError, match="have no column 'event'"):
        Dataset(interactions=rows(), items=ITEMS, signals=asked)


def test_purchases_of_what_was_viewed_before_are_told():
    table = pd.DataFrame({"user_id": 1, "item_id": list("aab"), "event": ["view", "purchase", "purchase"]})
    lines = told(validate_interactions(table), Signals(target_events=("purchase",)))
    assert lines[1] == "to be predicted: purchase (2 of 3 rows)"
    assert lines[2].startswith("1 of these are of items that their user had met before")
    allowed = told(validate_interactions(table), Signals(target_events=("purchase",), repeats="allowed"))
    assert allowed[2:] == ["repeats are allowed: items that users know are proposed and held out, too"]


def test_one_row_over_http_says_what_it_says_in_a_table():
    signals = Signals(event_weights={"hide": -2}, rating_scale=(1, 10))
    assert [signals.of_row(event="purchase"), signals.of_row(event="hide"), signals.of_row()] == [5.0, -2.0, 1.0]
    assert signals.of_row(event="view", rating=10) == 5.0
    assert [signals.of_row("purchase", weight=3), signals.of_row(weight=-2), signals.of_row("hide", None, 0)] == [
        15.0,
        -2.0,
        0.0,
    ]
    with pytest.raises(DataError, match="the weight -1 is below 0 beside an event or rating"):
        signals.of_row("purchase", weight=-1)
    assert signals.of_stored(("item", None, Signal("purchase", None, 2.0))) == 10.0
    with pytest.raises(DataError, match="outside the scale 1-10"):
        signals.of_row(rating=11)
    assert Signals().of_row(rating=2) == -2.5
