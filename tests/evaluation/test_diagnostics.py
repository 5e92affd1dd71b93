import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker.data.splits import leave_last_k
from reranker.evaluation.baselines import FirstStageOrder, LinearControl
from reranker.evaluation.diagnostics import (
    by_bucket,
    calibration,
    gain_lost,
    history_length_buckets,
    item_popularity_buckets,
    obfuscated_titles,
    order_invariance,
    rank_movement,
    shuffled_users,
    tied_share,
)
from reranker.pipeline.lists import propose
from tests.evaluation.toys import lists_of


class ByPlace(FirstStageOrder):
    """Prefers whatever stands first in the input: pure position bias."""

    def score(self, lists):
        return -np.arange(len(lists.candidates), dtype=float)


class ByTitle(FirstStageOrder):
    """Knows one title by heart."""

    def score(self, lists):
        known = lists.fold.items.set_index("item_id").title
        return (lists.candidates.item_id.map(known) == "b").to_numpy(dtype=float)


def test_an_invariant_system_keeps_its_order():
    lists = lists_of({"u": "a b c d", "v": "d c b a"}, {"u": "a", "v": "a"})
    found = order_invariance(FirstStageOrder(), lists)
    assert found.kendall_tau == 1
    assert found.max_score_change == 0
    assert abs(found.position_preference) < 1


def test_a_position_biased_system_is_found_out():
    items = " ".join(f"i{n}" for n in range(30))
    lists = lists_of({"u": items}, {"u": "i1"})
    found = order_invariance(ByPlace(), lists)
    assert found.position_preference == pytest.approx(1)
    assert found.kendall_tau < 0.6
    assert found.max_score_change > 0


def test_shuffled_users_all_get_another_history_and_the_personal_gain_goes(chain):
    fold = leave_last_k(chain)
    lists = propose(fold, PopularityGenerator(), 12)
    swapped = shuffled_users(lists, seed=1)
    pairs = {(u, i) for u, i in zip(lists.fold.history.user_id, lists.fold.history.item_id, strict=True)}
    moved = {(u, i) for u, i in zip(swapped.fold.history.user_id, swapped.fold.history.item_id, strict=True)}
    assert pairs != moved
    assert len(swapped.fold.history) == len(lists.fold.history)
    system = LinearControl().fit([propose(fold.validation(), PopularityGenerator(), 12)])
    assert gain_lost(system, lists, swapped).low > 0
    assert gain_lost(FirstStageOrder(), lists, swapped).mean == 0


def test_obfuscated_titles_take_away_what_is_known_by_name():
    lists = lists_of({"u": "a b", "v": "c b"}, {"u": "b", "v": "b"})
    hidden = obfuscated_titles(lists)
    assert sorted(hidden.fold.items.title) == ["Item 1", "Item 2", "Item 3", "Item 4"]
    assert lists.fold.items.title.tolist() == ["a", "b", "c", "h"]
    assert gain_lost(ByTitle(), lists, hidden).mean == pytest.approx(1 - 1 / np.log2(3))


def test_calibration_of_a_system_that_knows_its_chances():
    lists = lists_of({f"u{n}": "a b" for n in range(100)}, {f"u{n}": "a" if n < 80 else "b" for n in range(100)})
    honest = np.tile(np.log([0.8, 0.2]), 100)
    curve = calibration(lists, honest, bins=2)
    assert curve.predicted == pytest.approx([0.2, 0.8])
    assert curve.observed == pytest.approx([0.2, 0.8])
    assert curve.error == pytest.approx(0)
    boastful = np.tile(np.log([0.99, 0.01]), 100)
    assert calibration(lists, boastful, bins=2).error == pytest.approx(0.19)


def test_tied_share():
    lists = lists_of({"u": "a b c", "v": "a b"}, {"u": "a", "v": "a"})
    assert tied_share(lists, np.zeros(5)) == 1
    assert tied_share(lists, np.array([1.0, 1.0, 2.0, 1.0, 2.0])) == pytest.approx(2 / 5)


def test_history_buckets():
    history = {"a": "x", "b": "x y z p q r", "c": " ".join(f"i{n}" for n in range(60))}
    lists = lists_of({"a": "t", "b": "t", "c": "t"}, dict.fromkeys("abc", "t"), history=history)
    assert history_length_buckets(lists) == ["1-2", "6-10", "51+"]


def test_popularity_buckets_by_share_of_interactions():
    # 10 interactions: h 5 (starts at 0), m 3 (starts at .5), t 2 (starts at .8)
    history = {**{f"h{n}": "h" for n in range(5)}, **{f"m{n}": "m" for n in range(3)}, "t0": "t", "t1": "t"}
    lists = lists_of({"h0": "x"}, {"h0": "new", "h1": "t", "h2": "m", "m0": "h"}, history=history)
    assert item_popularity_buckets(lists) == ["new", "tail", "middle", "head"]


def test_by_bucket_keeps_users_of_the_covered_subset_apart():
    values = pd.Series([1.0, 3.0, 5.0], index=[0, 2, 3])
    table = by_bucket(values, ["11-20", "1-2", "1-2", "11-20"])
    assert table.bucket.tolist() == ["1-2", "11-20"]
    assert table["mean"].tolist() == [3, 3]
    assert table.n_users.tolist() == [1, 2]


def test_rank_movement_of_the_targets():
    lists = lists_of({"u": "a b c"}, {"u": "c"})
    assert rank_movement(lists, np.array([2, 3, 1])).tolist() == [2]
