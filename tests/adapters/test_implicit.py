"""implicit's own ALS model behind the Reranker: implicit's shapes, the Reranker's order."""

import numpy as np
import pandas as pd
import pytest
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from candidate_gen import ALSGenerator
from reranker import Reranker
from reranker.adapters.implicit_recommender import RerankedRecommender
from reranker.errors import ConfigError, DataError
from tests.pipeline import toys

LOWEST = np.finfo(np.float32).min


@pytest.fixture(scope="module")
def world():
    """A fitted Reranker, an implicit model, its matrix, and the ids of rows and columns."""
    data = toys.taste_dataset()
    reranker = Reranker(toys.config()).fit(data, ALSGenerator(factors=8).fit(data.interactions))
    users, user_ids = pd.factorize(data.interactions["user_id"])
    columns = {item: number for number, item in enumerate(data.items["item_id"])}
    items = data.interactions["item_id"].map(columns).to_numpy()
    matrix = csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=(len(user_ids), len(columns)))
    model = AlternatingLeastSquares(factors=8, random_state=0, num_threads=1)
    model.fit(matrix, show_progress=False)
    return reranker, model, matrix, list(user_ids), list(columns)


@pytest.fixture
def recommender(world):
    reranker, model, _, user_ids, item_ids = world
    return RerankedRecommender(model, reranker, user_ids, item_ids, n_candidates=12)


def test_the_rerankers_order_in_implicits_shapes(world, recommender):
    reranker, model, matrix, user_ids, item_ids = world
    users = np.array([5, 2, 9])
    ids, scores = recommender.recommend(users, matrix[users], N=4)
    assert ids.shape == scores.shape == (3, 4) and ids.dtype == np.int32
    proposed, given = model.recommend(users, matrix[users], N=12)
    for row, user in enumerate(users):
        lists = pd.DataFrame(
            {
                "user_id": user_ids[user],
                "item_id": [item_ids[item] for item in proposed[row]],
                "score": given[row].astype(float),
            }
        )
        expected = reranker.rerank(lists, 4).to_frame()["item_id"].tolist()
        assert [item_ids[item] for item in ids[row]] == expected
        assert not set(ids[row]) & set(matrix[user].indices)  # already liked items stay out
        assert (np.diff(scores[row]) <= 0).all()


def test_one_user_as_a_number(world, recommender):
    matrix = world[2]
    one, scores = recommender.recommend(3, matrix[3], N=5)
    assert one.shape == scores.shape == (5,)
    assert (one == recommender.recommend([3], matrix[[3]], N=5)[0][0]).all()


def test_chosen_items_and_filters_go_to_the_model(world, recommender):
    matrix = world[2]
    chosen = np.array([0, 9, 17, 30])
    ids, _ = recommender.recommend(3, matrix[3], N=4, items=chosen, filter_already_liked_items=False)
    assert sorted(ids) == sorted(chosen)
    first = recommender.recommend(3, matrix[3], N=1)[0][0]
    assert first not in recommender.recommend(3, matrix[3], N=27, filter_items=[first])[0]


def test_a_short_list_is_filled_as_implicit_does(world, recommender):
    matrix = world[2]
    ids, scores = recommender.recommend(3, matrix[3], N=6, items=[0, 9], filter_already_liked_items=False)
    assert sorted(ids[:2]) == [0, 9] and (ids[2:] == -1).all()
    assert (scores[2:] == LOWEST).all()


def test_bad_input(world, recommender):
    reranker, model, matrix, user_ids, item_ids = world
    with pytest.raises(DataError, match="a user twice"):
        recommender.recommend([1, 1], matrix[[1, 1]])
    with pytest.raises(DataError, match="user 40 has no id: user_ids holds 3"):
        RerankedRecommender(model, reranker, user_ids[:3], item_ids).recommend(40, matrix[40])
    with pytest.raises(ConfigError, match="n_candidates"):
        RerankedRecommender(model, reranker, n_candidates=0)
