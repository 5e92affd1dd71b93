"""Does what a backend reads agree with vLLM's own label log-probabilities? Asked once, when the engine is loaded.

A backend reaches into vLLM's worker, and a vLLM that moved under it may read the wrong rows without an error. So one
short list is read in both ways: behind a soft token that is a token's own vector, so that slots are checked, too.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from reranker.types import CandidateSpan, ScoringRequest, TokenSequence

if TYPE_CHECKING:
    from reranker.engines.vllm.engine import VLLMEngine

_TOLERANCE = {"float32": 0.02, "bfloat16": 1.0}  # nats of three tokens; the wrong row is off by several
_STATES_TOLERANCE = {"float32": 0.002, "bfloat16": 0.1}  # of a state's largest value; another layer is off by all of it
_PREFIX = 37  # tokens: cache blocks of 16 and of 32 end within it


def problem_of(engine: "VLLMEngine", states: bool) -> str:
    """What is wrong with the engine's backend; "" where nothing is.

    Args:
        engine: at the end of its construction.
        states: whether hidden states are checked.
    """
    return _told(engine, lambda: _disagreement(engine, states))


def layer_problem_of(engine: "VLLMEngine", stop_at_layers: Callable[[bool], object]) -> str:
    """What is wrong with hidden states of a layer below the last; "" where nothing is.

    Args:
        engine: whose backend is right.
        stop_at_layers: whether vLLM's model may end there; if not, all layers are computed and the states are taken on
            the way.
    """
    return _told(engine, lambda: _layers_disagreement(engine, stop_at_layers))


def _told(engine: "VLLMEngine", check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        if engine.dead:
            raise
        return f"its self-check failed with {type(error).__name__}: {error}"


def _layers_disagreement(engine: "VLLMEngine", stop_at_layers: Callable[[bool], object]) -> str:
    if engine.n_layers < 2:  # there is none below the last
        return ""
    layer = max(1, engine.n_layers // 2)
    ids = np.random.default_rng(1).integers(0, engine.model.vocab_size, 24).tolist()
    span = CandidateSpan(sequence=TokenSequence.from_tokens(ids[20:]), scored_from=1)
    asked = ScoringRequest(prefix=TokenSequence.from_tokens(ids[:20]), candidates=(span,))
    stopped = engine.span_states([asked], layer)[0][0]
    last = engine.span_states([asked])[0][0]
    stop_at_layers(False)
    try:
        whole = engine.span_states([asked], layer)[0][0]
    finally:
        stop_at_layers(True)
    most, tolerance = float(np.abs(whole).max()), _STATES_TOLERANCE[engine.dtype]
    apart, from_last = (float(np.abs(one - whole).max()) for one in (stopped, last))
    if not apart <= tolerance * most:
        return f"states of layer {layer} differ by {apart:.3g} of {most:.3g} when it is the last that is computed"
    if not from_last > tolerance * most:
        return f"states of layer {layer} are those of layer {engine.n_layers}"
    return ""


def _disagreement(engine: "VLLMEngine", states: bool) -> str:
    length = min(_PREFIX, engine.model.max_length - 4)
    ids = np.random.default_rng(0).integers(0, engine.model.vocab_size, length + 4).tolist()
    prefix, separator, targets = ids[:length], ids[length], ids[length + 1 :]
    plain = TokenSequence.from_tokens(prefix)
    soft = TokenSequence.concatenate(
        [TokenSequence.from_vectors(engine.embed_tokens(prefix[:1])), TokenSequence.from_tokens(prefix[1:])]
    )
    # Several rows beside each other, and one that is read with the prefix.
    spans = [
        CandidateSpan(sequence=TokenSequence.from_tokens([separator, *targets[:n]]), scored_from=1) for n in (3, 1)
    ]
    asked = ScoringRequest(prefix=soft, candidates=tuple(spans))
    before = [CandidateSpan(sequence=TokenSequence.from_tokens([separator, *targets[:n]])) for n in (0, 1, 2)]
    labels = engine.label_log_probs([ScoringRequest(prefix=plain, candidates=tuple(before))], targets)[0]
    expected = np.array([np.trace(labels), labels[0, 0]])
    found = engine.span_log_likelihoods([asked])[0].sums
    tolerance = _TOLERANCE[engine.dtype]
    if not np.allclose(found, expected, atol=tolerance, rtol=0.0):
        return f"likelihoods {np.round(found, 3).tolist()} where vLLM's labels say {np.round(expected, 3).tolist()}"
    if states:
        state = engine.span_states([asked])[0][1]
        value = engine.log_prob(state, targets[0])
        if not abs(value - expected[1]) <= tolerance:
            return f"a hidden state that says {value:.3f} where vLLM's label says {expected[1]:.3f}"
    return ""
