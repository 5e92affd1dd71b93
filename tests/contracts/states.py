"""What every engine that shows its hidden states must do. A test class inherits `StatesContract` beside an engine's."""

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from reranker.errors import EngineError
from reranker.protocols import Engine, ReadsStates, StopsAtLayer, n_layers
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


def states_at(engine: Engine, layer: int, request: ScoringRequest) -> NDArray[np.float32]:
    return cast(StopsAtLayer, engine).span_states([request], layer)[0]


class LayersContract:
    """What an engine that shows the states of layers below the last must do, beside `StatesContract`."""

    layers_tolerance = 2e-3

    def test_the_last_layer_is_what_is_read_where_none_is_named(self, engine: Engine) -> None:
        request = random_request(5, candidates=4)
        last = states_at(engine, n_layers(engine), request)
        np.testing.assert_allclose(last, states_of(engine, request)[0], atol=self.layers_tolerance, rtol=0)

    def test_layers_differ_and_do_not_depend_on_what_was_read_before(self, engine: Engine) -> None:
        """What a layer below the last left in an engine's cache is nothing that other layers may go on from."""
        request = random_request(6, candidates=4, prefix=70)
        alike = random_request(6, candidates=4, prefix=70)
        first = states_at(engine, 1, request)
        sums = engine.span_log_likelihoods([request])[0].sums
        last = states_at(engine, n_layers(engine), request)
        assert np.abs(first - last).max() > 10 * self.layers_tolerance  # else nothing could show
        np.testing.assert_allclose(states_at(engine, 1, alike), first, atol=self.layers_tolerance, rtol=0)
        np.testing.assert_allclose(engine.span_log_likelihoods([alike])[0].sums, sums, rtol=1e-4)

    def test_a_layer_that_there_is_not_is_refused(self, engine: Engine) -> None:
        for layer in (0, n_layers(engine) + 1):
            with pytest.raises(EngineError, match=f"not of layer {layer}"):
                states_at(engine, layer, random_request(0))
