"""ALS lists of a big catalogue, scored a part at a time: the same as of all scores at once, in less memory."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("implicit")

from candidate_gen import als
from candidate_gen.als import ALSGenerator
from candidate_gen.base import ScoringGenerator


class AtOnce(ALSGenerator):
    """Scores whole rows of the catalogue."""

    _best = ScoringGenerator._best
    _users_per_block = ScoringGenerator._users_per_block


def fitted(items: int, users: int, factors: int) -> tuple[ALSGenerator, AtOnce]:
    rng = np.random.default_rng(0)
    some = 10 * users
    table = {
        "user_id": np.concatenate([np.full(items, -1), rng.integers(0, users, some)]),  # one user has everything
        "item_id": np.concatenate([np.arange(items), rng.integers(0, items, some)]),
    }
    generator = ALSGenerator(factors=factors, iterations=1).fit(pd.DataFrame(table))
    generator._item_factors = np.round(4 * generator._item_factors) / 4  # so that many scores are equal
    generator._user_factors = np.round(8 * generator._user_factors) / 8
    whole = AtOnce()
    whole.__dict__.update(generator.__dict__)
    return generator, whole


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("n", [1, 7, 300, 2000])
def test_lists_are_those_of_all_scores_at_once(monkeypatch: pytest.MonkeyPatch, n: int, exclude_seen: bool) -> None:
    """997 items in parts of 64, 90 users in blocks of 16, ties within parts and across them."""
    monkeypatch.setattr(als, "_ITEMS", 64)
    monkeypatch.setattr(als, "_USERS", 16)
    parts, whole = fitted(997, 90, 4)
    users = [*range(-1, 90), "nobody"]
    expected = whole.recommend(users, n, exclude_seen)
    assert expected.groupby("user_id")["score"].nunique().lt(expected.groupby("user_id").size()).any() or n == 1
    pd.testing.assert_frame_equal(parts.recommend(users, n, exclude_seen), expected)


def test_no_copy_of_all_items_is_made() -> None:
    parts, _ = fitted(120_000, 200, 128)
    tracemalloc.start()
    try:
        parts.recommend(range(100), 50)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * parts.item_factors_by_column.size  # its items in float64, as it was for every few users
