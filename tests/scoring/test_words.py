"""Words beside hidden states: by hand, and against the lexical engine."""

from pathlib import Path

import numpy as np
import pytest

from reranker.engines.lexical import DIM, LexicalEngine
from reranker.engines.scripted import ScriptedEngine
from reranker.scoring import EmbeddingScorer, StateStore
from reranker.scoring.text_spaces import ItemSpaces, JointSpaces
from tests.contracts.scoring import ScoringContract, one_list, titled
from tests.scoring.readers import renderer

ITEMS = titled("Red lamp", "Blue lamp", "A red wooden chair", "Blue wooden table", "...", "Lamp")


class TestContract(ScoringContract):
    @pytest.fixture
    def scorer(self) -> EmbeddingScorer:
        return EmbeddingScorer(ScriptedEngine(dim=64), renderer(), StateStore(words=True))


def test_a_state_is_the_models_and_then_the_words_as_the_lexical_engine_reads_them() -> None:
    engine = ScriptedEngine(dim=16)
    texts = renderer().item_texts(ITEMS)
    states = StateStore(words=True).states(engine, texts)
    np.testing.assert_array_equal(states[..., :16], StateStore().states(engine, texts))
    words = LexicalEngine()._vectors
    expected = np.mean([words.vector(word) for word in ("a", "red", "wooden", "chair")], axis=0)
    np.testing.assert_allclose(states[2, 1, 16:], expected, rtol=1e-6)
    assert states.shape[-1] == 16 + DIM
    assert not states[4, 1, 16:].any()  # signs are no words


def test_nearness_is_the_mean_of_both_readers_cosines() -> None:
    rng = np.random.default_rng(0)
    states = rng.standard_normal((30, 4, 12)).astype(np.float32)
    joint = JointSpaces.fit(states, (8, 4))
    apart = [ItemSpaces.fit(states[..., :8]), ItemSpaces.fit(states[..., 8:])]
    near = joint.near(states)
    cosines = [
        one.near(part) @ one.near(part).T for one, part in zip(apart, (states[..., :8], states[..., 8:]), strict=True)
    ]
    np.testing.assert_allclose(near @ near.T, np.mean(cosines, axis=0), atol=1e-5)
    whole = np.concatenate([apart[0].whole(states[..., :8]), apart[1].whole(states[..., 8:])], axis=-1)
    np.testing.assert_array_equal(joint.whole(states), whole)


def test_a_reader_that_reads_nothing_is_left_out() -> None:
    states = np.random.default_rng(0).standard_normal((30, 4, 12)).astype(np.float32)
    states[..., 8:] = 0  # titles of signs alone hold no words
    joint = JointSpaces.fit(states, (8, 4))
    np.testing.assert_array_equal(joint.near(states), ItemSpaces.fit(states[..., :8]).near(states[..., :8]))


def test_what_is_saved_scores_as_before(tmp_path: Path) -> None:
    engine = ScriptedEngine(dim=16)
    before = EmbeddingScorer(engine, renderer(), StateStore(words=True))
    before = before.for_catalog(ITEMS)
    before = before.for_window(ITEMS, np.eye(6, 4, dtype=np.float32), np.arange(1.0, 7.0))
    before.states.save(tmp_path / "states.npz")
    loaded = StateStore.load(tmp_path / "states.npz")
    assert loaded.words
    after = EmbeddingScorer(engine, renderer(), loaded)
    one = one_list(3)
    np.testing.assert_array_equal(after.score_components([one])[0], before.score_components([one])[0])
