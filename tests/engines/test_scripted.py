"""The scripted engine against the contract and against arithmetic done by hand."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.engines.scripted import ByteTokenizer, ScriptedEngine, bigram_log_prob
from reranker.protocols import Engine
from reranker.types import ScoringRequest
from tests.contracts.engine import EngineContract, plain, span
from tests.contracts.states import StatesContract


class TestDefaultFunction(EngineContract, StatesContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return ScriptedEngine()


class TestGivenFunction(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return ScriptedEngine(bigram_log_prob)


def test_default_is_the_published_function() -> None:
    request = ScoringRequest(prefix=plain(b"abab-abc"), candidates=(span(b"abc"), span(b"zz"), span(b"bcab", 2)))
    default = ScriptedEngine().span_log_likelihoods([request])[0]
    given_function = ScriptedEngine(bigram_log_prob).span_log_likelihoods([request])[0]
    np.testing.assert_allclose(default.sums, given_function.sums)


def test_bigrams_by_hand() -> None:
    # "aab": a is followed by a once and by b once; b by nothing.
    log_probs = bigram_log_prob(np.frombuffer(b"aab", dtype=np.uint8).astype(np.int64), np.array([97, 98, 97]))
    assert log_probs[0] == pytest.approx(np.log(1 / 256))  # b -> a: b never continues
    assert log_probs[1] == pytest.approx(np.log(0.9 * 1 / 2 + 0.1 / 256))  # a -> b: one of two
    assert log_probs[2] == pytest.approx(np.log(1 / 256))  # b -> a again


def test_a_title_of_the_history_beats_a_stranger() -> None:
    encode = ByteTokenizer().encode
    request = ScoringRequest(
        prefix=plain(encode("Chosen before:\n- Alien\n- Aliens")),
        candidates=(span(encode("\n- Alien 3"), 3), span(encode("\n- Bambi 2"), 3)),
    )
    sums = ScriptedEngine().span_log_likelihoods([request])[0].sums
    assert sums[0] > sums[1] + 5


def test_the_function_sees_prefix_and_span() -> None:
    seen = []

    def log_prob(prefix: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        seen.append((prefix.tolist(), tokens.tolist()))
        return -np.arange(len(tokens), dtype=np.float64)

    request = ScoringRequest(prefix=plain([1, 2]), candidates=(span([3, 4, 5], 1), span([6, 7], 1)))
    scores = ScriptedEngine(log_prob).span_log_likelihoods([request])[0]
    assert seen == [([1, 2], [3, 4, 5]), ([1, 2], [6, 7])]
    assert scores.sums.tolist() == [-3.0, -1.0]


@given(st.text())
def test_bytes_come_back(text: str) -> None:
    text = text.encode("utf-8", errors="replace").decode()
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text


def test_a_hundred_thousand_candidates_in_seconds() -> None:
    request = ScoringRequest(prefix=plain(b"some history"), candidates=tuple(span(b"\n- a title") for _ in range(50)))
    began = time.perf_counter()
    ScriptedEngine().span_log_likelihoods([request] * 2000)
    assert time.perf_counter() - began < 20
