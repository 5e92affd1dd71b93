import numpy as np
import pytest

from reranker.fusion.co_visits import co_visits, transitions
from reranker.fusion.histories import UserHistories


def test_rows_are_grouped_by_user_in_their_order() -> None:
    histories = UserHistories.grouped(["b", "a", "nobody"], np.array([0, 1, 0, 1, 0]), np.array([5, 7, 2, 7, 9]))
    assert {user: rows.tolist() for user, rows in histories.items()} == {"b": [5, 2, 9], "a": [7, 7], "nobody": []}
    assert list(histories) == ["b", "a", "nobody"] and len(histories) == 3
    assert histories.lengths.tolist() == [3, 2, 0]
    assert histories["a"].dtype == np.int64


def test_it_is_a_mapping() -> None:
    histories = UserHistories.of({7: np.array([1, 2]), 8: np.array([3])})
    assert 7 in histories and "7" not in histories
    assert histories.get("7") is None and histories.get(8).tolist() == [3]
    with pytest.raises(KeyError):
        histories[9]
    assert UserHistories.of(histories) is histories
    assert len(UserHistories.of({})) == 0


def test_what_a_user_gets_is_nothing_that_others_share() -> None:
    histories = UserHistories.of({7: np.array([1, 2])})
    histories[7][0] = 5
    assert histories[7].tolist() == [1, 2]


def test_nothing_follows_from_one_user_to_the_next() -> None:
    nobody = np.zeros(0, dtype=np.int64)
    histories = UserHistories.of({"a": np.array([0, 1, 0, 1]), "b": nobody, "c": np.array([2]), "d": nobody})
    np.testing.assert_array_equal(transitions(histories, 3).toarray(), [[0, 2, 0], [1, 0, 0], [0, 0, 0]])
    assert transitions(UserHistories.of({}), 3).nnz == 0


def test_co_visits_leave_repeats_in_the_histories() -> None:
    histories = UserHistories.of({"a": np.array([0, 1, 0]), "b": np.array([1, 1])})
    np.testing.assert_allclose(co_visits(histories, 2).toarray(), [[0, np.sqrt(0.5)], [np.sqrt(0.5), 0]])
    assert {user: rows.tolist() for user, rows in histories.items()} == {"a": [0, 1, 0], "b": [1, 1]}
