"""Models of other packages as candidate generators, and the pipeline that is given one."""

import copy

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from candidate_gen import ALSGenerator, as_generator
from candidate_gen.backend import implicit_library
from candidate_gen.matrix import InteractionMatrix
from candidate_gen.own import OwnGenerator
from reranker.errors import ConfigError, DataError
from tests.contracts.own_generator import ITEMS, USERS, OwnGeneratorContract, interactions
from tests.pipeline import toys


def matrix() -> InteractionMatrix:
    return InteractionMatrix.from_table(interactions())


def of_matrix(model) -> OwnGenerator:
    known = matrix()
    return as_generator(model, user_items=known.matrix, user_ids=known.user_ids, item_ids=known.item_ids)


class TestImplicitALS(OwnGeneratorContract):
    @pytest.fixture
    def generator(self) -> OwnGenerator:
        with implicit_library() as implicit:
            model = implicit.cpu.als.AlternatingLeastSquares(factors=4, random_state=0)
            model.fit(matrix().matrix, show_progress=False)
        return of_matrix(model)

    def test_a_copy_forgets_the_factors(self, generator):
        """implicit's `fit` goes on from the factors that it finds: a copy that kept them would know the future."""
        with implicit_library() as implicit:
            fresh = implicit.cpu.als.AlternatingLeastSquares(factors=4, random_state=0)
        half = interactions()[:24]
        again = generator.clone().fit(half).recommend(["u1"], n=3)
        known = InteractionMatrix.from_table(half)
        fresh.fit(known.matrix, show_progress=False)
        expected, _ = fresh.recommend(known.user_rows["u1"], known.matrix[known.user_rows["u1"]], N=3)
        assert again["item_id"].tolist() == [known.item_ids[column] for column in expected]


class TestImplicitItemKNN(OwnGeneratorContract):
    @pytest.fixture
    def generator(self) -> OwnGenerator:
        with implicit_library() as implicit:
            model = implicit.nearest_neighbours.ItemItemRecommender(K=ITEMS)
            known = matrix()
            numbers = known.matrix.astype(np.float64)  # its item-kNN takes no others
            model.fit(numbers, show_progress=False)
        return as_generator(model, user_items=numbers, user_ids=known.user_ids, item_ids=known.item_ids)

    def test_seen_items_are_left_out_unless_asked_for(self, generator):
        """Item-kNN lists what shares a user with the history, and nothing else."""
        frame = generator.recommend([f"u{user}" for user in range(USERS)], n=6)
        seen = set(interactions()[["user_id", "item_id"]].itertuples(index=False, name=None))
        assert not seen & set(frame[["user_id", "item_id"]].itertuples(index=False, name=None))


class LightFMLike:
    """What LightFM has: `fit` that begins anew, `fit_partial`, `predict` of one user and several items."""

    def fit(self, matrix):
        self.co_visits = (sp.csr_matrix(matrix).T @ sp.csr_matrix(matrix)).toarray()
        self.matrix = sp.csr_matrix(matrix)
        return self

    def fit_partial(self, matrix):
        return self.fit(matrix)

    def predict(self, user, items):
        return (self.matrix[user] @ self.co_visits)[0][items]


class TestLightFM(OwnGeneratorContract):
    @pytest.fixture
    def generator(self) -> OwnGenerator:
        return of_matrix(LightFMLike().fit(matrix().matrix.tocoo()))


class RecToolsDataset:
    """What RecTools' data set has: `construct`, and the map of external ids."""

    @classmethod
    def construct(cls, table):
        assert {"user_id", "item_id", "weight", "datetime"} == set(table)
        self = cls()
        self.table = table
        self.user_id_map = type("IdMap", (), {"external_ids": table["user_id"].unique()})
        return self


class RecToolsModel:
    """The most popular items, under RecTools' signature; it refuses users that it does not know."""

    def fit(self, dataset):
        self.popular = dataset.table["item_id"].value_counts().index.tolist()
        return self

    def recommend(self, users, dataset, k, filter_viewed):
        rows = []
        for user in users:
            seen = dataset.table.loc[dataset.table["user_id"] == user, "item_id"]
            assert len(seen), f"unknown user {user}"
            left = [item for item in self.popular if not filter_viewed or item not in set(seen)]
            rows += [(user, item, 1.0 / rank, rank) for rank, item in enumerate(left[:k], start=1)]
        return pd.DataFrame(rows, columns=["user_id", "item_id", "score", "rank"])


class TestRecTools(OwnGeneratorContract):
    @pytest.fixture
    def generator(self) -> OwnGenerator:
        table = interactions().assign(weight=1.0).rename(columns={"timestamp": "datetime"})
        dataset = RecToolsDataset.construct(table)
        return as_generator(RecToolsModel().fit(dataset), dataset=dataset)


class TestFunction(OwnGeneratorContract):
    refits = knows_seen = False

    @pytest.fixture
    def generator(self) -> OwnGenerator:
        def newest(users, n):
            known = [user for user in users if user.startswith("u")]
            return {user: [f"i{place}" for place in range(n)] for user in known}

        return as_generator(newest)


class TestTable(OwnGeneratorContract):
    refits = knows_seen = False

    @pytest.fixture
    def generator(self) -> OwnGenerator:
        rows = [(f"u{user}", f"i{place}", 5 - place) for user in range(USERS) for place in range(5)]
        return as_generator(pd.DataFrame(rows, columns=["user_id", "item_id", "score"]))


def test_a_generator_stays_what_it_is():
    generator = ALSGenerator()
    assert as_generator(generator) is generator


def test_what_cannot_be_taken_is_said():
    with pytest.raises(ConfigError, match="give user_items="):
        as_generator(LightFMLike())
    with pytest.raises(ConfigError, match="nothing is known of int"):
        as_generator(3)
    with pytest.raises(DataError, match="12 rows and 10 columns, but 2 user ids"):
        as_generator(LightFMLike(), user_items=matrix().matrix, user_ids=["a", "b"])
    with pytest.raises(DataError, match="got list"):
        as_generator(lambda users, n: []).recommend(["u1"], n=2)


def test_a_model_that_was_trained_elsewhere_is_learned_on_without_being_changed():
    """The whole way: a LightFM-like model proposes, its copies make the windows, the ranker is fitted."""
    data = toys.taste_dataset(users=60)
    known = InteractionMatrix.from_table(data.interactions)
    model = LightFMLike().fit(known.matrix)
    before = copy.deepcopy(model.co_visits)
    generator = as_generator(model, user_items=known.matrix, user_ids=known.user_ids, item_ids=known.item_ids)
    reranker = _fitted(data, generator)
    assert reranker.fusion_model is not None
    np.testing.assert_array_equal(model.co_visits, before)


def test_a_function_is_told_the_way_out():
    data = toys.taste_dataset(users=20)
    with pytest.raises(ConfigError, match="reranker fit --candidates --held-out"):
        _fitted(data, as_generator(lambda users, n: {}))


def _fitted(data, generator):
    from reranker import Reranker

    return Reranker.from_pretrained("untrained", engine="lexical", scorer="embedding", n_candidates=8).fit(
        data, generator
    )
