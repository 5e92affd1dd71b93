import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from reranker.errors import DataError
from reranker.fusion import FEATURES, InteractionStatistics, co_visits, standardise_within_lists
from reranker.fusion.co_visits import block
from reranker.fusion.histories import UserHistories

ITEMS = pd.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "title": ["A", "B", "C", "D"],
        "category": ["x, y", "x", "y", None],
    }
)
INTERACTIONS = pd.DataFrame(
    {
        "user_id": [1, 1, 2, 2, 3, 3],
        "item_id": ["a", "b", "a", "c", "a", "b"],
        "timestamp": [1, 2, 3, 4, 5, 6],
    }
)
VECTORS = np.array([[1, 0], [3, 4], [0, 2], [0, 0]], dtype=np.float32)


def model(interactions: pd.DataFrame = INTERACTIONS) -> InteractionStatistics:
    return InteractionStatistics.fit(interactions, ITEMS, list("abcd"), VECTORS)


def candidates(user: object, items: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": [user] * len(items),
            "item_id": items,
            "score": np.linspace(1, 0.5, len(items)),
            "rank": np.arange(1, len(items) + 1),
        }
    )


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, list(FEATURES).index(name)]


def z(values: list[float]) -> np.ndarray:
    return standardise_within_lists(np.array(values)[:, None], np.zeros(len(values), dtype=np.int64))[:, 0]


def test_statistics_by_hand() -> None:
    statistics = model()
    row = statistics.index
    assert statistics.popularity[[row["a"], row["b"], row["c"], row["d"]]].tolist() == [3, 2, 1, 0]
    # a and b share users 1 and 3: 2 / sqrt(3 * 2); no item goes with itself.
    assert statistics.co_visits[[row["a"]], :].toarray()[0, row["b"]] == pytest.approx(2 / np.sqrt(6))
    assert statistics.co_visits[[row["a"]], :].toarray()[0, row["a"]] == 0
    # a was followed by b twice and by c once, and never the other way round.
    assert statistics.transitions[[row["a"]], :].toarray()[0, [row["b"], row["c"]]].tolist() == [2, 1]
    assert statistics.transitions[[row["b"]], :].toarray().sum() == 0
    assert np.linalg.norm(statistics.vectors, axis=1) == pytest.approx([1, 1, 1, 0])


def test_features_by_hand() -> None:
    statistics = model()
    history = {9: np.array([statistics.index["c"], statistics.index["a"]])}  # newest: a
    features = statistics.features(candidates(9, ["b", "c", "d"]), history)
    assert column(features, "similarity_last") == pytest.approx(z([0.6, 0.0, 0.0]), abs=1e-6)
    assert column(features, "similarity_best") == pytest.approx(z([0.8, 1.0, 0.0]), abs=1e-6)
    assert column(features, "similarity_mean") == pytest.approx(z([0.7, 0.5, 0.0]), abs=1e-6)
    assert column(features, "covisit_last") == pytest.approx(z([2 / np.sqrt(6), 1 / np.sqrt(3), 0.0]))
    assert column(features, "transition_last") == pytest.approx(z([np.log(3), np.log(2), 0.0]))
    # b shares x with a: mean over the history (c, a) of shared categories = (0 + 1) / 2; c: (1 + 1) / 2.
    assert column(features, "category_overlap") == pytest.approx(z([0.5, 1.0, 0.0]))
    assert column(features, "popularity") == pytest.approx(z(list(np.log1p([2, 1, 0]))))
    assert column(features, "first_stage_rank") == pytest.approx(z(list(-np.log([1, 2, 3]))))


def test_the_best_of_a_longer_past_is_looked_for_beyond_the_last_five() -> None:
    statistics = model()
    a, c = statistics.index["a"], statistics.index["c"]
    features = statistics.features(candidates(9, ["b", "a", "d"]), {9: np.array([a, *[c] * 5])})
    assert column(features, "similarity_best") == pytest.approx(z([0.8, 0.0, 0.0]), abs=1e-6)
    assert column(features, "similarity_best_50") == pytest.approx(z([0.8, 1.0, 0.0]), abs=1e-6)
    assert column(features, "covisit_mean") == pytest.approx(z([0.0, 1 / np.sqrt(3), 0.0]))
    assert column(features, "covisit_best_50") == pytest.approx(z([2 / np.sqrt(6), 1 / np.sqrt(3), 0.0]))
    beyond = statistics.features(candidates(9, ["b", "a", "d"]), {9: np.array([a, *[c] * 50])})
    assert column(beyond, "covisit_best_50") == pytest.approx(z([0.0, 1 / np.sqrt(3), 0.0]))


def test_long_histories_turn_the_weight_of_popularity() -> None:
    statistics = model()
    table = candidates(9, ["b", "c"])
    short = statistics.features(table, {9: np.array([0])})
    long = statistics.features(table, {9: np.tile([0], 100)})
    assert column(short, "popularity_x_length")[0] < 0 < column(long, "popularity_x_length")[0]


def test_only_the_order_of_the_history_given_counts() -> None:
    statistics = model()
    table = candidates(1, ["c", "d"])
    stored = statistics.features(table)
    same = statistics.features(table, {1: statistics.histories[1]})
    assert np.array_equal(stored, same)


def test_without_timestamps_nothing_follows_anything() -> None:
    statistics = model(INTERACTIONS.drop(columns="timestamp"))
    assert statistics.transitions.nnz == 0
    assert statistics.recent_popularity.sum() == 0


def test_strangers_and_unknown_items_are_finite() -> None:
    features = model().features(candidates("new_user", ["a", "never seen", "b"]))
    assert np.isfinite(features).all()
    assert column(features, "popularity")[1] == column(features, "popularity").min()
    assert column(features, "similarity_last").tolist() == [0, 0, 0]


def test_one_candidate_has_no_rivals_to_differ_from() -> None:
    assert not model().features(candidates(1, ["c"])).any()


def test_lists_do_not_touch_each_other() -> None:
    statistics = model()
    one, two = candidates(1, ["c", "d"]), candidates(2, ["b", "d"])
    together = statistics.features(pd.concat([one, two], ignore_index=True))
    assert np.array_equal(together, np.concatenate([statistics.features(one), statistics.features(two)]))


def test_histories_of_newer_interactions() -> None:
    newer = pd.DataFrame({"user_id": [7, 7, 8], "item_id": ["b", "a", "unheard of"]})
    histories = model().encode_histories(newer)
    assert histories[7].tolist() == [model().index["b"], model().index["a"]]
    assert histories[8].tolist() == []


def test_newer_histories_as_a_table_or_a_mapping() -> None:
    statistics = model()
    table = pd.DataFrame({"user_id": [1, 1], "item_id": ["c", "unheard of"]})
    for newer in (table, {1: ["c", "unheard of"]}):
        histories = statistics.histories_with(newer)
        assert histories[1].tolist() == [statistics.index["c"]]
        np.testing.assert_array_equal(histories[2], statistics.histories[2])
    assert statistics.histories_with(None) is statistics.histories


def test_entries_of_a_sparse_matrix_are_read_as_scipy_reads_them() -> None:
    random = np.random.default_rng(0)
    for density in (0.0, 0.1, 1.0):
        matrix = sparse.csr_array(sparse.random_array((9, 30), density=density, rng=random))
        rows, columns = random.integers(0, 9, 4), random.permutation(30)[:12]
        np.testing.assert_array_equal(block(matrix, rows, columns), matrix.toarray()[np.ix_(rows, columns)])


def test_vectors_must_match_ids() -> None:
    with pytest.raises(DataError, match="3 item ids were given 4 vectors"):
        InteractionStatistics.fit(INTERACTIONS, ITEMS, list("abc"), VECTORS)


def test_categories_may_be_lists() -> None:
    lists = ITEMS.assign(category=pd.Series([["x", "y"], np.array(["x"]), ["y"], []], dtype=object))
    listed = InteractionStatistics.fit(INTERACTIONS, lists, list("abcd"), VECTORS)
    np.testing.assert_array_equal(listed.categories.toarray(), model().categories.toarray())


def test_blanks_around_categories_do_not_count() -> None:
    blanks = ITEMS.assign(category=[" x,  y", "x ", " y", None])
    fitted = InteractionStatistics.fit(INTERACTIONS, blanks, list("abcd"), VECTORS)
    np.testing.assert_array_equal(fitted.categories.toarray(), model().categories.toarray())


def test_a_model_with_further_items_is_one_that_was_fitted_with_them() -> None:
    more = pd.DataFrame({"item_id": ["e", "f"], "title": ["E", "F"], "category": ["y, x", "w"]})
    larger = pd.concat([ITEMS, more], ignore_index=True)
    lists, chose_e = candidates(1, list("bcefd")), {1: np.array([4])}
    fitted = InteractionStatistics.fit(INTERACTIONS, larger, list("abcd"), VECTORS)
    extended = model().extended(larger)
    np.testing.assert_array_equal(extended.features(lists), fitted.features(lists))
    np.testing.assert_array_equal(extended.features(lists, chose_e), fitted.features(lists, chose_e))
    overlap = column(extended.features(lists), "category_overlap")
    assert overlap[2] == overlap.max() > overlap[3] and model().index.keys() == set("abcd")


def test_co_visits_of_very_many_pairs_keep_the_strongest_of_each_item(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    histories = UserHistories.of({user: rng.choice(30, rng.integers(1, 12)) for user in range(80)})
    whole = co_visits.co_visits(histories, 30).toarray()
    monkeypatch.setattr(co_visits, "MOST_CO_VISITS", 120)
    monkeypatch.setattr(co_visits, "_FEWEST_KEPT", 4)
    monkeypatch.setattr(co_visits, "_PRODUCTS_A_BLOCK", 50)
    cut = co_visits.co_visits(histories, 30)
    assert (np.diff(cut.indptr) <= 4).all()
    for row, kept in zip(whole, cut.toarray(), strict=True):
        assert np.count_nonzero(kept) == min(4, np.count_nonzero(row))
        np.testing.assert_array_equal(kept[kept > 0], row[kept > 0].astype(np.float32))
        assert row[kept == 0].max() <= row[kept > 0].min()


def test_co_visits_count_the_newest_items_once() -> None:
    history = np.array([0, *([1] * co_visits.CO_VISIT_WINDOW), 2])  # 0 and one of 1 are too old
    histories = UserHistories.of({"a": history, "b": np.array([1, 2]), "c": np.array([2])})
    together = co_visits.co_visits(histories, 3).toarray()
    np.testing.assert_allclose(together, [[0, 0, 0], [0, 0, 2 / np.sqrt(6)], [0, 2 / np.sqrt(6), 0]])
