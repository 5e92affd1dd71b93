"""Calls in slices give what whole calls give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.engines.scripted import ScriptedEngine
from reranker.engines.slices import AbandonedError, Slicing, in_slices, in_turns, sliced
from reranker.scoring.relevance import QueryDocuments, QueryRelevance
from reranker.types import CandidateSpan, ScoringRequest, SpanScores, TokenSequence


def request(prefix, *lengths):
    spans = tuple(CandidateSpan(sequence=TokenSequence.from_tokens([7] * n), scored_from=1) for n in lengths)
    return ScoringRequest(prefix=TokenSequence.from_tokens([1] * prefix), candidates=spans)


def sums(requests):
    """A candidate's sum tells its own and its prefix's length."""
    return [
        SpanScores(
            sums=np.array([1000.0 * len(one.prefix) + len(span.sequence) for span in one.candidates]),
            counts=np.array([len(span.sequence) for span in one.candidates]),
        )
        for one in requests
    ]


LISTS = st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=9)), max_size=6)


@given(lists=LISTS, tokens=st.integers(1, 60))
def test_any_cut_gives_the_results_of_the_whole_call(lists, tokens):
    asked = [request(prefix, *lengths) for prefix, lengths in lists]
    sizes = []

    def call(requests):
        sizes.append((sum(one.tokens for one in requests), sum(len(one.candidates) for one in requests)))
        return sums(requests)

    with sliced(Slicing(tokens, 0.0)):
        found = in_slices(call, asked)
    for one, whole in zip(found, sums(asked), strict=True):
        assert one.sums.tolist() == whole.sums.tolist() and one.counts.tolist() == whole.counts.tolist()
    assert all(size <= tokens or candidates == 1 for size, candidates in sizes)


def test_between_is_called_once_a_cut_and_may_end_the_work():
    calls, looks = [], []

    def call(requests):
        calls.append(len(requests[0].candidates))
        return [np.zeros((len(one.candidates), 2)) for one in requests]

    def between():
        looks.append(1)
        if len(looks) == 2:
            raise AbandonedError("gone")

    with sliced(Slicing(10, 0.0, between)), pytest.raises(AbandonedError):
        in_slices(call, [request(2, 4, 4, 4, 4, 4, 4, 4, 4)])
    assert calls == [2, 2]
    assert in_slices(call, [request(2, 4, 4)])[0].shape == (2, 2) and calls == [2, 2, 2]  # whole outside


def test_the_size_follows_the_time_by_at_most_a_factor_of_two():
    slicing = Slicing(1000, 0.1)
    slicing.measured(1000, 0.08)
    assert slicing.tokens == 1250
    slicing.measured(1000, 10.0)
    assert slicing.tokens == 625
    slicing.measured(625, 1e-9)
    assert slicing.tokens == 1250


def test_long_work_before_the_engine_lets_others_in_and_may_be_ended(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 10.0)  # seconds since the machine was started
    turns = []
    with sliced(Slicing(100, 0.0, between=lambda: turns.append(1))):
        assert list(in_turns("abcd")) == list("abcd") and len(turns) == 3
    assert list(in_turns("abcd")) == list("abcd") and len(turns) == 3  # nothing is cut here
    with sliced(Slicing(100, 3600.0, between=lambda: turns.append(1))):
        assert list(in_turns("abcd")) == list("abcd") and len(turns) == 4  # the first, on a machine just started, too


def test_a_list_of_texts_that_nobody_waits_for_is_not_prepared_to_the_end():
    engine, left = ScriptedEngine(), []

    def gone():
        left.append(1)
        raise AbandonedError("nobody waits")

    asked = QueryDocuments(query="ink", documents=[("", f"text {n}") for n in range(50)], max_tokens_per_doc=9)
    with sliced(Slicing(100, 0.0, between=gone)), pytest.raises(AbandonedError):
        QueryRelevance(engine).read([asked])
    assert left == [1]
