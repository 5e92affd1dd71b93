"""What generators make of events and ratings: dislikes are seen, but chosen by nobody."""

import numpy as np
import pandas as pd
import pytest

from candidate_gen import ALSGenerator, CoVisitGenerator, ItemKNNGenerator, PopularityGenerator, ReciprocalRankFusion
from candidate_gen.matrix import InteractionMatrix

ROWS = pd.DataFrame(
    [
        ("u", "a", "view"),
        ("u", "a", "purchase"),
        ("u", "b", "dislike"),
        ("v", "a", "view"),
        ("v", "b", "view"),
        ("w", "b", "skip"),
        ("w", "b", "view"),
        ("w", "c", "like"),
        ("x", "d", "dislike"),
    ],
    columns=["user_id", "item_id", "event"],
).assign(timestamp=range(9))


def cells(matrix):
    return {(row, column): value for row, column, value in zip(*matrix.nonzero(), matrix.data, strict=True)}


def test_the_matrix_by_hand():
    """u: a 6, b -5; v: a 1, b 1; w: b 0, c 5; x: d -5. Mean of the choices 13 / 4; two chose a."""
    fitted = InteractionMatrix.from_table(ROWS, use_weights=True)
    assert fitted.item_ids == ["a", "b", "c", "d"] and fitted.user_ids == ["u", "v", "w", "x"]
    mean = 13 / 4
    expected = [[6 / mean, -5 / mean, 0, 0], [1 / mean, 1 / mean, 0, 0], [0, 0, 5 / mean, 0], [0, 0, 0, -5 / mean]]
    np.testing.assert_allclose(fitted.matrix.toarray(), expected, rtol=1e-6)
    assert fitted.popularity.tolist() == [2 / 4, 1 / 4, 1 / 4, 0]
    assert cells(fitted.seen).keys() == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (2, 2), (3, 3)}
    assert cells(fitted.chosen).keys() == {(0, 0), (1, 0), (1, 1), (2, 2)}
    assert cells(fitted.disliked).keys() == {(0, 1), (3, 3)}
    signs = InteractionMatrix.from_table(ROWS, use_weights=False).matrix
    np.testing.assert_array_equal(signs.toarray(), np.sign(expected))


@pytest.mark.parametrize(
    "stage",
    [
        ALSGenerator(factors=2),
        PopularityGenerator(),
        CoVisitGenerator(),
        ItemKNNGenerator(),
        ReciprocalRankFusion([ALSGenerator(factors=2), CoVisitGenerator()]),
    ],
    ids=lambda stage: stage.name,
)
def test_disliked_items_are_never_proposed_and_chosen_ones_where_repeats_are(stage):
    fitted = stage.clone().fit(ROWS)

    def listed(user, exclude_seen):
        return set(fitted.recommend([user], n=9, exclude_seen=exclude_seen)["item_id"])

    assert listed("u", True) == {"c", "d"} and listed("u", False) == {"a", "c", "d"}
    assert listed("w", True) == {"a", "d"} and listed("w", False) == {"a", "b", "c", "d"}  # of b, w says nothing
    assert listed("x", True) == listed("x", False) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "stage", [ALSGenerator(factors=8), CoVisitGenerator(), ItemKNNGenerator(), PopularityGenerator()]
)
def test_one_strength_for_all_is_as_good_as_none(stage):
    rng = np.random.default_rng(0)
    plain = pd.DataFrame({"user_id": rng.integers(0, 20, 150), "item_id": rng.integers(0, 15, 150)}).drop_duplicates()
    for column in ({"event": "view"}, {"event": "purchase"}, {"weight": 3.0}, {"rating": 1}):
        lists = [stage.clone().fit(table).recommend(range(20), n=5) for table in (plain, plain.assign(**column))]
        pd.testing.assert_frame_equal(*lists)


def test_co_visits_of_choices_alone():
    """u chose a and dislikes b: they are no co-visit. cos(a, b) = 1 / sqrt(2 * 1), by v alone."""
    stage = CoVisitGenerator().fit(ROWS)
    table = stage.recommend(["v"], n=9, exclude_seen=False).set_index("item_id")["score"]
    assert table["a"] == pytest.approx(1 / np.sqrt(2)) and table["b"] == pytest.approx(0.9 / np.sqrt(2))


def test_a_dislike_pulls_the_score_down():
    likes = pd.DataFrame([(user, item) for user in "uvwxyz" for item in "ab"], columns=["user_id", "item_id"])
    rows = likes.assign(event="like")
    rows.loc[(rows["user_id"] == "u") & (rows["item_id"] == "b"), "event"] = "dislike"
    stage = ALSGenerator(factors=2).fit(rows)
    u, v = stage.user_factors(["u", "v"]) @ stage.item_factors(["b"]).T
    assert u[0] < v[0] - 0.2


def test_signals_survive_saving(tmp_path):
    stage = ALSGenerator(factors=2).fit(ROWS)
    stage.save(tmp_path)
    loaded = ALSGenerator.load(tmp_path)
    for exclude_seen in (True, False):
        lists = [one.recommend(["u", "w"], n=9, exclude_seen=exclude_seen) for one in (stage, loaded)]
        pd.testing.assert_frame_equal(*lists)
