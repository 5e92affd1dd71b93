"""Features of item vectors of the user's own, worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from reranker.data.item_vectors import ItemVectors
from reranker.fusion import FEATURES, InteractionStatistics
from reranker.fusion.own_vectors import COMPONENTS, WORDS, VectorFeatures
from reranker.utils.spaces import EmbeddingSpace

PLAIN = EmbeddingSpace(centre=np.zeros(2, dtype=np.float32), basis=np.eye(2, dtype=np.float32))
"""Vectors as they are: a is alike to b, and c to d; e has none."""

VECTORS = ItemVectors(
    ids=list("abcd"), values=np.array([[1, 0], [0.6, 0.8], [0, -2], [-0.6, -0.8]], dtype=np.float32), space=PLAIN
)
INDEX = {item: row for row, item in enumerate("abcde")}
COUNTS = np.array([3.0, 1, 0, 2, 5])
FACTORS = np.array([[1, 0], [1, 0], [0, 0], [0, 1], [1, 0]], dtype=np.float32)


def z(values):
    values = np.asarray(values, dtype=np.float64)
    return (values - values.mean()) / values.std()


def values(own, rows, histories, lists=None):
    lists = np.zeros(len(rows), dtype=np.int64) if lists is None else lists
    features = np.zeros((len(rows), len(FEATURES)))
    features[:, list(FEATURES).index("popularity")] = np.arange(len(rows))
    found = own.values(np.array(rows), lists, [np.array(one, dtype=np.int64) for one in histories], features)
    return dict(zip(WORDS, found.T, strict=True))


def test_nearness_is_the_cosine_to_the_history_and_0_without_a_vector():
    own = VectorFeatures.fit(VECTORS, INDEX, FACTORS, COUNTS)
    # the history is e (no vector), d, a: the newest with a vector is a
    found = values(own, [1, 2, 4, -1], [[4, 3, 0]])
    last, before = [0.6, 0.0, 0, 0], [-1.0, 0.8, 0, 0]  # cosines of b, c, e and an unknown item to a, and to d
    assert found["vectors_near_last"] == pytest.approx(z(last), abs=1e-6)
    assert found["vectors_near_best"] == pytest.approx(z(np.maximum(last, before)), abs=1e-6)
    assert found["vectors_near_mean"] == pytest.approx(z((np.array(last) + before) / 2), abs=1e-6)
    assert found["vectors_near_last_x_popularity"] == pytest.approx(0.5 * z(last) * np.arange(4), abs=1e-6)


def test_without_a_history_nothing_is_near():
    own = VectorFeatures.fit(VECTORS, INDEX, FACTORS, COUNTS)
    found = values(own, [0, 1, 2], [[]])
    assert not any(column.any() for name, column in found.items() if not name.startswith("vectors_popularity"))


def test_the_projection_says_who_chooses_an_item_that_nobody_chose():
    """a and b lie to one side and go with the first factor, d to the other and with the second: so does c."""
    own = VectorFeatures.fit(VECTORS, INDEX, FACTORS, COUNTS)
    found = values(own, [2, 1], [[3]])  # a user who chose d
    assert found["vectors_cf_last"][0] > found["vectors_cf_last"][1]
    assert found["vectors_cf_best"] == pytest.approx([1, -1])


def test_popular_vectors_are_learned_from_all_that_were_chosen():
    counts = np.array([50.0, 40, 0, 1, 0])
    found = values(VectorFeatures.fit(VECTORS, INDEX, FACTORS, counts), [0, 2, 3], [[]])
    assert found["vectors_popularity"][0] > max(found["vectors_popularity"][1:])


def test_where_nothing_was_chosen_there_are_no_projections():
    own = VectorFeatures.fit(VECTORS, INDEX, np.zeros((5, 0), dtype=np.float32), np.zeros(5))
    assert own.cf_projection is None and own.popularity is None
    found = values(own, [1, 2], [[0]])
    assert found["vectors_near_last"] == pytest.approx([1, -1]) and not found["vectors_cf_last"].any()


def test_lists_stand_by_themselves_whatever_the_order_of_the_rows():
    own = VectorFeatures.fit(VECTORS, INDEX, FACTORS, COUNTS)
    apart = [values(own, [1, 2], [[0]]), values(own, [1, 3], [[2]])]
    mixed = values(own, [1, 1, 2, 3], [[0], [2]], np.array([0, 1, 0, 1]))
    for name in COMPONENTS:
        assert mixed[name] == pytest.approx(
            [apart[0][name][0], apart[1][name][0], apart[0][name][1], apart[1][name][1]]
        )


def statistics():
    interactions = pd.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "d"], "timestamp": [1, 2, 3]})
    items = pd.DataFrame({"item_id": list("abcde"), "title": list("abcde")})
    return items, InteractionStatistics.fit(interactions, items, list("abcde"), FACTORS)


def test_statistics_have_the_features_behind_the_others_and_bring_new_items():
    items, plain = statistics()
    own = plain.with_vectors(VECTORS)
    assert list(own.columns) == [*FEATURES, *WORDS]
    table = {"user_id": "u", "item_id": ["c", "new"], "score": [2.0, 1.0], "rank": [1, 2]}
    lists = pd.DataFrame(table)
    features = own.features(lists)
    assert features[:, : len(FEATURES)] == pytest.approx(plain.features(lists))
    near = len(FEATURES)
    assert features[:, near] == pytest.approx([-1, 1])  # c lies at -.8 of b, the unknown one nowhere: at 0
    more = VECTORS.with_more(ItemVectors(ids=["new"], values=np.array([[-0.6, -0.8]], dtype=np.float32), space=PLAIN))
    every = pd.concat([items, pd.DataFrame({"item_id": ["new"], "title": ["new"]})], ignore_index=True)
    assert own.extended(every, more).features(lists)[:, near] == pytest.approx([1, -1])  # -.8 beside -1
    assert own.extended(every).features(lists)[:, near] == pytest.approx([-1, 1])
    assert own.with_vectors(None).features(lists).shape[1] == len(FEATURES)
