"""Events in statistics: strengths count, dislikes are kept apart, and say something of candidates."""

import numpy as np
import pandas as pd
import pytest

from reranker.data.schema import validate_interactions
from reranker.fusion import FEATURES, InteractionStatistics
from reranker.fusion.columns import DISLIKE_FEATURES
from tests.fusion.test_features import INTERACTIONS, ITEMS, VECTORS, candidates, model, z

SIGNED = validate_interactions(
    pd.DataFrame(
        [
            (1, "a", "view", 1),
            (1, "b", "purchase", 2),
            (2, "a", "like", 3),
            (2, "c", "dislike", 4),
            (3, "a", "view", 5),
            (3, "b", "view", 6),
            (3, "b", "skip", 7),
            (4, "c", "dislike", 8),
        ],
        columns=["user_id", "item_id", "event", "timestamp"],
    )
)


def signed():
    return InteractionStatistics.fit(SIGNED, ITEMS, list("abcd"), VECTORS)


def test_strengths_count_and_dislikes_are_no_history():
    """Choices: 1 a (1), 1 b (5), 2 a (5), 3 a (1): mean 3; 3's view of b is undone by the skip."""
    statistics = signed()
    assert {user: statistics.history(user) for user in (1, 2, 3, 4)} == {1: ["a", "b"], 2: ["a"], 3: ["a"], 4: []}
    assert statistics.popularity.tolist() == pytest.approx([7 / 3, 5 / 3, 0, 0])
    assert statistics.recent_popularity.tolist() == pytest.approx([1 / 3, 0, 0, 0])
    assert statistics.n_known([1, 2, 3, 4]).tolist() == [2, 1, 1, 0]
    assert {user: rows.tolist() for user, rows in statistics.dislikes.of_users.items()} == {2: [2], 4: [2]}
    assert statistics.dislikes.shares.tolist() == pytest.approx([0, 0, 2 / 7, 0])  # 2 of 2, and 5 more users


def test_without_signals_nothing_is_different():
    plain, weighed = model(), model(INTERACTIONS.assign(strength=2.0))
    assert plain.dislikes is None and list(plain.columns) == list(FEATURES)
    assert list(weighed.columns) == [*FEATURES, *DISLIKE_FEATURES]
    listed = candidates(1, ["b", "c", "d"])
    np.testing.assert_array_equal(weighed.features(listed)[:, : len(FEATURES)], plain.features(listed))
    assert not weighed.features(listed)[:, len(FEATURES) :].any()


def test_dislike_features_by_hand():
    """User 2 dislikes c = (0, 1); a = (1, 0), b = (.6, .8). b and c share no user who chose both."""
    statistics = signed()
    features = statistics.features(candidates(2, ["a", "b", "c", "z"]))[:, len(FEATURES) :]
    assert features[:, 0] == pytest.approx(z([0.0, 0.8, 1.0, 0.0]), abs=1e-6)
    assert features[:, 1] == pytest.approx(z([0.0, 0.0, 0.0, 0.0]))
    assert features[:, 2] == pytest.approx(z([0.0, 0.0, 2 / 7, 0.0]))
    assert not statistics.features(candidates(1, ["a", "b", "d"]))[:, len(FEATURES)].any()  # dislikes nothing


def test_newer_histories_bring_their_dislikes():
    statistics = signed()
    similarity = len(FEATURES)

    def by(histories, user):
        return statistics.features(candidates(user, ["a", "b", "d"]), histories)[:, similarity]

    given = statistics.histories_with({2: ["b"], 9: ["a"]}, {9: ["a"]})
    assert by(given, 9) == pytest.approx(z([1.0, 0.6, 0.0]), abs=1e-6)
    assert not by(given, 2).any()  # the mapping says nothing of dislikes, and replaces what was known
    assert by(given, 4) == pytest.approx(z([0.0, 0.8, 0.0]), abs=1e-6)
    table = pd.DataFrame({"user_id": [9, 9], "item_id": ["b", "a"], "event": ["view", "dislike"]})
    histories = statistics.histories_with(validate_interactions(table))
    assert by(histories, 9) == pytest.approx(z([1.0, 0.6, 0.0]), abs=1e-6)
    assert statistics.history(9, histories) == ["b"]


def test_new_items_have_no_dislikes():
    more = pd.concat([ITEMS, pd.DataFrame({"item_id": ["e"], "title": ["E"]})], ignore_index=True)
    statistics = signed().extended(more)
    assert statistics.dislikes.shares.tolist() == pytest.approx([0, 0, 2 / 7, 0, 0])
    assert statistics.features(candidates(2, ["a", "e"])).shape == (2, len(FEATURES) + len(DISLIKE_FEATURES))
