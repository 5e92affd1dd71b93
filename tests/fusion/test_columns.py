import numpy as np
import pytest

from reranker.fusion import FEATURES, llm_columns, llm_words
from reranker.fusion.columns import content_columns, with_new_items


def test_components_and_their_products_with_popularity_by_hand() -> None:
    raw = np.array([[1.0], [3.0], [5.0], [5.0]])
    lists = np.array([4, 4, 9, 9])  # any numbers
    features = np.zeros((4, len(FEATURES)))
    features[:, list(FEATURES).index("popularity")] = [1.0, -1.0, 1.0, -1.0]
    assert llm_columns(features, raw, lists) == pytest.approx(
        np.array([[-1.0, -0.5], [1.0, -0.5], [0.0, 0.0], [0.0, 0.0]])  # the second list's are all alike
    )


def test_words_name_every_column() -> None:
    words = llm_words({"llm_sum": "log-likelihood", "llm_prior": "log-likelihood without history"})
    assert list(words) == ["llm_sum", "llm_prior", "llm_sum_x_popularity", "llm_prior_x_popularity"]
    assert words["llm_sum_x_popularity"] == "log-likelihood; of popular items"
    raw = np.random.default_rng(0).standard_normal((6, 2))
    assert llm_columns(np.ones((6, len(FEATURES))), raw, np.repeat([0, 1], 3)).shape == (6, len(words))


def test_no_rows_have_columns() -> None:
    assert llm_columns(np.zeros((0, len(FEATURES))), np.zeros((0, 3)), np.zeros(0, dtype=np.int64)).shape == (0, 6)


def test_new_items_of_a_list_differ_by_content_alone_by_hand() -> None:
    values = np.array([[1.0], [2.0], [6.0], [7.0], [9.0]])
    content = np.array([[10.0], [20.0], [40.0], [80.0], [5.0]])
    lists, is_new = np.array([0, 0, 0, 1, 1]), np.array([False, True, True, True, False])
    assert with_new_items(values, content, lists, is_new).tolist() == [
        [1.0, 0.0],
        [4.0, -10.0],  # the mean of 2 and 6; 20 against the mean of 20 and 40
        [4.0, 10.0],
        [7.0, 0.0],  # the only new one of its list
        [9.0, 0.0],
    ]
    assert values.tolist() == [[1.0], [2.0], [6.0], [7.0], [9.0]]  # not written into


def test_content_is_what_new_items_have_too() -> None:
    columns = [*FEATURES, "disliked_share", "price", "own_near_last", "own_near_last_x_popularity"]
    assert [columns[place] for place in content_columns(columns)] == ["price", "own_near_last"]
