"""The lexical engine against the contracts and against counts made by hand."""

import numpy as np
import pytest

from reranker.engines import lexical, load_engine
from reranker.engines.lexical import LexicalEngine, WordTokenizer
from reranker.protocols import Engine
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence
from tests.contracts.engine import TokenEngineContract, plain
from tests.contracts.states import StatesContract


class TestContract(TokenEngineContract, StatesContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return load_engine("lexical")


def request(engine: LexicalEngine, prefix: str, *texts: str) -> ScoringRequest:
    encode = engine.tokenizer.encode
    spans = tuple(
        CandidateSpan(sequence=TokenSequence.from_tokens([*encode("\n-"), *encode(text)]), scored_from=1)
        for text in texts
    )
    return ScoringRequest(prefix=plain(encode(prefix)), candidates=spans)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_texts_are_as_alike_as_their_words() -> None:
    engine = LexicalEngine()
    states = engine.span_states([request(engine, "x", "red lamp .", "RED, lamp!", "blue chair .", "red chair .")])[0]
    assert cosine(states[0], states[1]) == pytest.approx(1.0, abs=1e-6)  # case and signs say nothing
    assert abs(cosine(states[0], states[2])) < 0.25
    assert cosine(states[0], states[3]) == pytest.approx(0.5, abs=0.2)  # one word of two is shared


def test_vectors_are_the_same_in_every_engine() -> None:
    first, second = LexicalEngine(), LexicalEngine()
    second.tokenizer.encode("other words before")
    pair = [engine.span_states([request(engine, "x", "Alien 3 .")])[0] for engine in (first, second)]
    np.testing.assert_array_equal(*pair)


def test_likelihood_by_hand() -> None:
    engine = LexicalEngine()
    sums = engine.span_log_likelihoods([request(engine, "red red lamp", "red", "chair")])[0].sums
    assert sums[0] == pytest.approx(np.log(0.9 * 2 / 3 + 0.1 / 65536))
    assert sums[1] == pytest.approx(np.log(0.1 / 65536))


def test_chinese_is_read_by_the_character() -> None:
    assert len(WordTokenizer().encode("红色台灯")) == 4
    assert len(WordTokenizer().encode("two words")) == 2


def test_so_many_vectors_are_kept_and_others_are_the_same_when_they_are_drawn_again(monkeypatch):
    monkeypatch.setattr(lexical, "KEPT_BYTES", 4 * 8 * 3)
    few = lexical.WordVectors(8)
    words = [f"w{number}" for number in range(20)]
    first = [few.vector(word) for word in words]
    assert len(few._vectors) == 3  # the empty word and two more
    monkeypatch.undo()
    many = lexical.WordVectors(8)
    for word, vector in zip(words, first, strict=True):
        assert np.array_equal(few.vector(word), vector) and np.array_equal(many.vector(word), vector)
