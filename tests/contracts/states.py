"""What every engine that shows its hidden states must do. A test class inherits `StatesContract` beside an engine's."""

import numpy as np
from numpy.typing import NDArray

from reranker.protocols import Engine, ReadsStates
from reranker.types import ScoringRequest
from tests.contracts.engine import plain, random_request, span


def states_of(engine: Engine, *requests: ScoringRequest) -> list[NDArray[np.float32]]:
    assert isinstance(engine, ReadsStates)
    return engine.span_states(requests)


class StatesContract:
    states_tolerance = 2e-3  # of states whose largest floats are about 10 in the real model

    def test_one_state_a_candidate(self, engine: Engine) -> None:
        states = states_of(engine, random_request(1, candidates=5), random_request(2, candidates=2))
        assert [one.shape for one in states] == [(5, engine.model.dim), (2, engine.model.dim)]
        assert all(one.dtype == np.float32 and np.isfinite(one).all() for one in states)
        assert states_of(engine) == []

    def test_states_do_not_depend_on_the_batch_or_the_order(self, engine: Engine) -> None:
        request = random_request(4, candidates=12)
        order = np.random.default_rng(0).permutation(12)
        shuffled = ScoringRequest(prefix=request.prefix, candidates=tuple(request.candidates[at] for at in order))
        alone = ScoringRequest(prefix=request.prefix, candidates=request.candidates[3:4])
        before, after, single = states_of(engine, request, shuffled, alone)
        np.testing.assert_allclose(after, before[order], atol=self.states_tolerance, rtol=0)
        np.testing.assert_allclose(single[0], before[3], atol=self.states_tolerance, rtol=0)
        assert np.abs(before[0] - before[1]).max() > 10 * self.states_tolerance  # else nothing could show

    def test_a_state_is_the_mean_over_what_scored_tokens_follow(self, engine: Engine) -> None:
        """Of 7 20 30 | 40: the states at 7, 20 and 30, of which the first is that of 7 | 20."""
        whole, head, tail = span([7, 20, 30, 40], 1), span([7, 20], 1), span([7, 20, 30, 40], 2)
        nothing = span([7, 20, 30, 40], 4)
        request = ScoringRequest(prefix=plain([1, 2, 3]), candidates=(whole, head, tail, nothing))
        states = states_of(engine, request)[0]
        np.testing.assert_allclose(3 * states[0], states[1] + 2 * states[2], atol=4 * self.states_tolerance, rtol=0)
        assert not states[3].any()

    def test_the_last_token_is_not_read(self, engine: Engine) -> None:
        request = ScoringRequest(prefix=plain([1, 2, 3]), candidates=(span([7, 20, 30]), span([7, 20, 31])))
        first, second = states_of(engine, request)[0]
        np.testing.assert_allclose(first, second, atol=self.states_tolerance, rtol=0)

    def test_states_asked_for_again_are_the_same(self, engine: Engine) -> None:
        """An engine that keeps prefixes must not take the span itself from what it kept."""
        request = ScoringRequest(prefix=plain(list(range(20))), candidates=(span(list(range(30, 110))),))
        first, again = states_of(engine, request)[0], states_of(engine, request)[0]
        np.testing.assert_allclose(first, again, atol=self.states_tolerance, rtol=0)
