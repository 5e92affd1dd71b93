"""Features of the moment, worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from eval import context
from reranker.data.dataset import Dataset
from reranker.pipeline.windows import window_of
from tests.pipeline import toys

DAY = 86400


def window():
    before = pd.DataFrame(
        [("u", "a", 0), ("u", "b", 10_000), ("u", "c", 10_100), ("v", "a", 50), ("v", "c", 90), ("w", "b", 60)],
        columns=["user_id", "item_id", "timestamp"],
    )
    items = pd.DataFrame({"item_id": list("abcd"), "title": list("abcd")})
    data = Dataset(interactions=before, items=items)
    lists = toys.table([("u", "a", 2.0), ("u", "d", 1.0), ("v", "b", 2.0), ("v", "d", 1.0)]).assign(rank=[1, 2, 1, 2])
    newer = pd.concat([before, pd.DataFrame([("u", "d", 10_200), ("v", "b", 99_000)], columns=before.columns)])
    fold = window_of(data, data.interactions, newer.tail(2), lists, None)
    return fold, newer


def test_the_moment_of_a_list_is_that_of_the_choice():
    fold, newer = window()
    found = context.context_of(fold, newer)
    assert found.times.tolist() == [10_200, 99_000]
    assert found.gaps.tolist() == [100, 98_910]
    mixed = found.shuffled(0)
    assert sorted(mixed.gaps) == [100, 98_910]


def test_a_session_is_what_came_since_the_last_gap():
    fold, newer = window()
    names = {row: item for item, row in fold.statistics.index.items()}
    sessions = context._sessions(fold, context.context_of(fold, newer))
    assert [[names[row] for row in one] for one in sessions] == [["b", "c"], []]
    values = context._session(fold, context.context_of(fold, newer), np.array([0, 3, 1, 3]))
    visits = fold.statistics.co_visits.toarray()
    assert values == pytest.approx([(visits[1, 0] + visits[2, 0]) / 2, 0, 0, 0])


def test_lifts_are_counts_over_what_is_expected_shrunk():
    past, items = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    lifts = context._lifts(past, items, np.array([0, 0, 1]), np.array([0, -1, 1]), 2, 2)
    assert lifts == pytest.approx([np.log((2 + 5) / (3 * 0.5 + 5)), 0, np.log((1 + 5) / (1 * 0.5 + 5))])


def test_hours_are_three_and_days_are_of_the_week():
    assert context._hour(np.array([0.0, 3 * 3600, DAY + 23.9 * 3600])).tolist() == [0, 1, 7]
    assert context._day(np.array([0.0, 6.5 * DAY, 7 * DAY])).tolist() == [0, 6, 0]


def test_a_context_that_tells_is_told_from_a_shuffled_one():
    rng = np.random.default_rng(0)
    rows = []
    for user in range(150):
        for number, item in enumerate(rng.permutation(8)[:6]):  # items 0-3 in the morning, 4-7 in the evening
            rows.append((f"u{user}", f"i{item}", number * DAY + (9 if item < 4 else 21) * 3600 + int(user)))
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(8)], "title": [f"t{n}" for n in range(8)]})
    found = {one.features: one for one in context.judge(Dataset(interactions=table, items=items), "toy")}
    assert set(found) == {"all", *context.GROUPS}
    assert found["hour"].over_control.low > 0
    assert found["hour"].gain.low > 0
    assert "toy" in str(found["hour"])
