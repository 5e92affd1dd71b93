"""Co-visits against the contract of candidate generators, hand-computed scores and a dense oracle."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from candidate_gen import CoVisitGenerator, co_visit
from reranker.errors import ConfigError
from tests.contracts.generator import GeneratorContract, random_interactions


class TestCoVisit(GeneratorContract):
    @pytest.fixture
    def stage(self) -> CoVisitGenerator:
        return CoVisitGenerator()


def timed() -> pd.DataFrame:
    """a and x share user 1, b and y share user 2; user 3 chose a, then b."""
    rows = [(1, "a", 0), (1, "x", 1), (2, "b", 0), (2, "y", 1), (3, "a", 2), (3, "b", 3)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def test_score_is_the_decayed_sum_of_cosines_newest_first() -> None:
    frame = CoVisitGenerator(decay=0.5).fit(timed()).recommend([3], n=5)
    cosine = 1 / np.sqrt(2 * 1)  # x and a share one user; a has two, x one
    assert frame["item_id"].tolist() == ["y", "x"]
    np.testing.assert_allclose(frame["score"], [cosine, 0.5 * cosine], rtol=1e-6)


def test_the_order_is_that_of_the_timestamps_not_of_the_rows() -> None:
    reverse = timed().iloc[::-1].reset_index(drop=True)
    assert CoVisitGenerator(decay=0.5).fit(reverse).recommend([3], n=5)["item_id"].tolist() == ["y", "x"]


def test_an_item_chosen_again_counts_once_where_it_was_chosen_last() -> None:
    again = pd.concat([timed(), pd.DataFrame({"user_id": [3], "item_id": ["a"], "timestamp": [9]})])
    frame = CoVisitGenerator(decay=0.5).fit(again).recommend([3], n=5)
    assert frame["item_id"].tolist() == ["x", "y"]
    np.testing.assert_allclose(frame["score"], np.array([1, 0.5]) / np.sqrt(2), rtol=1e-6)


def test_only_the_newest_of_the_history_count() -> None:
    frame = CoVisitGenerator(history=1).fit(timed()).recommend([3], n=5)
    np.testing.assert_allclose(frame["score"], [1 / np.sqrt(2), 0.0], rtol=1e-6)


def test_without_timestamps_all_items_count_alike() -> None:
    table = timed().drop(columns="timestamp")
    frame = CoVisitGenerator(history=1, decay=0.5).fit(table).recommend([3], n=5)
    np.testing.assert_allclose(frame["score"], [1 / np.sqrt(2)] * 2, rtol=1e-6)


@pytest.mark.parametrize("cells", [1, 300, 2**24])
@pytest.mark.parametrize("neighbours", [3, 1000])
def test_blocks_and_pruning_agree_with_dense_cosines(
    monkeypatch: pytest.MonkeyPatch, cells: int, neighbours: int
) -> None:
    monkeypatch.setattr(co_visit, "_CELLS_PER_BLOCK", cells)
    table = random_interactions().assign(timestamp=0)
    stage = CoVisitGenerator(neighbours=neighbours).fit(table)
    seen = np.zeros((len(stage.user_ids), len(stage.item_ids)))
    for user, item in zip(table["user_id"], table["item_id"], strict=True):
        seen[stage.user_ids.index(user), stage.item_ids.index(item)] = 1
    norms = np.sqrt(seen.sum(axis=0))
    cosines = seen.T @ seen / np.outer(norms, norms)
    np.fill_diagonal(cosines, 0)
    order = np.argsort(-cosines.astype(np.float32), axis=1, kind="stable")
    for item, best in enumerate(order):
        cosines[item, best[neighbours:]] = 0
    np.testing.assert_allclose(stage._cosines.toarray(), cosines, atol=1e-6)


def test_saving_keeps_the_lists(tmp_path: Path) -> None:
    stage = CoVisitGenerator(history=3, decay=0.7).fit(random_interactions().assign(timestamp=range(900)))
    stage.save(tmp_path)
    loaded = CoVisitGenerator.load(tmp_path)
    assert loaded.settings == stage.settings == stage.clone().settings
    users = stage.user_ids
    pd.testing.assert_frame_equal(loaded.recommend(users, 5), stage.recommend(users, 5))


@pytest.mark.parametrize("setting", [{"history": 0}, {"neighbours": 0}, {"decay": 0.0}, {"decay": 1.5}])
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        CoVisitGenerator(**setting)  # type: ignore[arg-type]
