"""The vLLM engine with the real model, against the contract and against the torch engine."""

import gc
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm")

from reranker.engines.torch.engine import TorchEngine
from reranker.engines.vllm.engine import VLLMEngine
from reranker.errors import EngineError
from reranker.protocols import HIDDEN_STATES, LOWER_STATES, Engine
from reranker.types import CandidateSpan, GenerationRequest, ScoringRequest, TokenSequence
from tests.contracts.engine import EngineContract, plain, random_request, span
from tests.contracts.generation import SoftGeneratorContract, asked, text_of
from tests.contracts.states import LayersContract, StatesContract

# vLLM's own warnings, at import and while it loads.
pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def vllm_engine() -> Iterator[VLLMEngine]:
    engine = VLLMEngine("smollm2-135m", dtype="float32", slots=64, max_length=1024)
    yield engine
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        engine.close()
        gc.collect()
    assert not [str(one.message) for one in caught if "context" in str(one.message)]
    with pytest.raises(EngineError, match="closed"):
        engine.embed_tokens([1])


class TestVLLM(EngineContract, StatesContract, LayersContract, SoftGeneratorContract):
    tolerance = 5e-4

    @pytest.fixture
    def engine(self, vllm_engine: VLLMEngine) -> VLLMEngine:
        return vllm_engine

    def test_its_backend_is_told(self, engine: VLLMEngine) -> None:
        assert engine.backend == "v1_patched" and engine.lacks == {} and engine.n_layers == 30

    def test_writes_what_torch_writes(self, engine: Engine) -> None:
        torch_engine = TorchEngine("smollm2-135m", dtype="float32")
        ours = list(engine.generate(asked(engine, "The three largest cities of France are", max_tokens=16)))
        theirs = list(torch_engine.generate(asked(engine, "The three largest cities of France are", max_tokens=16)))
        assert text_of(ours) == text_of(theirs) and len(ours) == len(theirs) == 16

    def test_slots_are_not_rewritten_under_a_text(self, engine: Engine) -> None:
        """The 64 slots are filled anew in the middle of a text that began with a vector."""
        rows = engine.embed_tokens(range(100, 180))
        first = TokenSequence.concatenate([TokenSequence.from_vectors(rows[:2]), plain([5, 6, 7])])
        request = GenerationRequest(prompt=first, max_tokens=40, temperature=0.0)
        whole = text_of(list(engine.generate(request)))
        pieces = engine.generate(request)
        begun = [next(pieces)]
        for start in (2, 40):
            prefix = TokenSequence.concatenate([TokenSequence.from_vectors(rows[start : start + 38]), plain([5])])
            engine.span_log_likelihoods([ScoringRequest(prefix=prefix, candidates=(span([7, 8]),))])
        assert text_of([*begun, *pieces]) == whole

    def test_agrees_with_torch(self, engine: VLLMEngine) -> None:
        """240 candidates: prefixes that end anywhere in a cache block, with and without a soft prompt."""
        torch_engine = TorchEngine("smollm2-135m", dtype="float32")
        soft = TokenSequence.from_vectors(torch_engine.embed_tokens([500, 600, 700]) * np.float32(0.9))
        requests = []
        for seed in range(8):
            request = random_request(seed, candidates=30, prefix=25 + 3 * seed)
            prefix = TokenSequence.concatenate([soft, request.prefix]) if seed % 2 else request.prefix
            requests.append(ScoringRequest(prefix=prefix, candidates=request.candidates))
        for ours, theirs in zip(
            engine.span_log_likelihoods(requests), torch_engine.span_log_likelihoods(requests), strict=True
        ):
            np.testing.assert_allclose(ours.sums, theirs.sums, atol=1e-3, rtol=0)
        for ours, theirs in zip(
            engine.label_log_probs(requests, [10, 20]), torch_engine.label_log_probs(requests, [10, 20]), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
        for ours, theirs in zip(engine.span_states(requests), torch_engine.span_states(requests), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=0)
        for layer in (1, 12, 29):
            for ours, theirs in zip(
                engine.span_states(requests, layer), torch_engine.span_states(requests, layer), strict=True
            ):
                np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)

    def test_a_layer_is_read_beside_a_text(self, engine: VLLMEngine) -> None:
        """The text needs all layers in the steps that it shares, and writes what it does alone."""
        request = random_request(3, candidates=20, prefix=50)
        alone = engine.span_states([request], 12)[0]
        asked = GenerationRequest(prompt=plain([5, 6, 7]), max_tokens=24, temperature=0.0)
        whole = text_of(list(engine.generate(asked)))
        pieces = engine.generate(asked)
        begun = [next(pieces)]
        for _ in range(3):
            np.testing.assert_allclose(engine.span_states([request], 12)[0], alone, atol=1e-3, rtol=0)
            begun.append(next(pieces))
        assert text_of([*begun, *pieces]) == whole

    def test_scoring_again_does_not_read_scores_from_the_cache(self, engine: Engine) -> None:
        """The second time the whole span may lie in cached blocks, for which vLLM computes no log-probabilities."""
        request = ScoringRequest(prefix=plain(list(range(20))), candidates=(span(list(range(30, 110))),))
        first = engine.span_log_likelihoods([request])[0].sums
        again = engine.span_log_likelihoods([request])[0].sums
        np.testing.assert_allclose(again, first, atol=1e-3, rtol=0)

    def test_a_vector_before_every_item(self, engine: Engine) -> None:
        """8 items of the history and 50 candidates, each with a vector of its own: lists that fill the 64 slots."""
        torch_engine = TorchEngine("smollm2-135m", dtype="float32")
        rng = np.random.default_rng(0)
        vectors = torch_engine.embed_tokens(range(1000, 1200))

        def with_vectors(picked: list[int]) -> list[TokenSequence]:
            return [
                TokenSequence.concatenate(
                    [plain([7]), TokenSequence.from_vectors(vectors[row : row + 1]), plain(rng.integers(0, 9000, 3))]
                )
                for row in picked
            ]

        requests = [
            ScoringRequest(
                prefix=TokenSequence.concatenate(with_vectors(list(range(start, start + 8)))),
                candidates=tuple(
                    CandidateSpan(sequence=one, scored_from=2)
                    for one in with_vectors(list(range(start + 8, start + 58)))
                ),
            )
            for start in (0, 60, 120)
        ]
        for ours, theirs in zip(
            engine.span_log_likelihoods(requests), torch_engine.span_log_likelihoods(requests), strict=True
        ):
            np.testing.assert_allclose(ours.sums, theirs.sums, atol=1e-3, rtol=0)

    def test_more_vectors_than_slots_over_a_batch(self, engine: Engine) -> None:
        def soft(seed: int) -> ScoringRequest:
            vectors = engine.embed_tokens(list(range(seed * 30, seed * 30 + 30)))
            return ScoringRequest(prefix=TokenSequence.from_vectors(vectors), candidates=(span([7, 20, 30]),))

        requests = [soft(seed) for seed in range(5)]
        together = engine.span_log_likelihoods(requests)
        alone = [engine.span_log_likelihoods([request])[0] for request in requests]
        np.testing.assert_allclose(
            [scores.sums[0] for scores in together], [scores.sums[0] for scores in alone], atol=self.tolerance
        )

    def test_candidates_that_begin_alike_beyond_a_block(self, engine: Engine) -> None:
        """Their common blocks are scored tokens: taken from the cache they would have no log-probabilities."""
        begin = list(range(50, 120))
        spans = tuple(span([7, *begin, token]) for token in (20, 30, 40))
        request = ScoringRequest(prefix=plain(list(range(30))), candidates=spans)
        torch_engine = TorchEngine("smollm2-135m", dtype="float32")
        theirs = torch_engine.span_log_likelihoods([request])[0].sums
        for _ in range(2):
            np.testing.assert_allclose(
                engine.span_log_likelihoods([request])[0].sums, theirs, rtol=1e-5
            )  # 72 tokens, 500 nats

    @pytest.mark.parametrize("length", [31, 32, 33, 50])
    def test_a_candidate_computes_nothing_of_its_prefix(self, engine: VLLMEngine, length: int) -> None:
        spans = tuple(span([7, 20 + number, 30]) for number in range(4))
        request = ScoringRequest(prefix=plain([9, *range(length - 1)]), candidates=spans)
        prompts = engine._reader.prompts([request])
        outputs = engine._reader.generate([engine._reader.writer.span(prompt) for prompt in prompts])
        assert [output.num_cached_tokens for output in outputs[1:]] == [length] * 3

    @pytest.mark.parametrize("length", [30, 31, 32])
    def test_first_tokens_are_read_with_the_prefix(self, engine: VLLMEngine, length: int) -> None:
        """What all spans begin behind is computed once, and a candidate of one token is read to its end there."""
        spans = (span([7, 20, 30, 40]), span([7, 21, 30]), span([7, 22]))
        request = ScoringRequest(prefix=plain([9, *range(length - 1)]), candidates=spans)
        prompts = engine._reader.prompts([request], likelihood=True)
        behind = ScoringRequest(prefix=request.prefix, candidates=(CandidateSpan(sequence=plain([7])),))
        expected = engine.label_log_probs([behind], [20, 21, 22])[0][0]
        np.testing.assert_allclose([prompt.first for prompt in prompts], expected, atol=self.tolerance)
        outputs = engine._reader.generate([engine._reader.writer.span(prompt) for prompt in prompts[:2]])
        assert [output.num_cached_tokens for output in outputs] == [length + 1] * 2
        assert [prompt.scored for prompt in prompts] == [[30, 40], [30], []]

    def test_a_beginning_that_some_candidates_share_is_read_once(self, engine: VLLMEngine) -> None:
        """Branches of one to three tokens that end anywhere in a cache block; candidates that are a branch's whole."""
        tails = [[20, 21, 22], [20, 21, 22], [20, 21, 22, 30], [20, 21, 22, 31, 40], [20, 21, 22, 32]]
        others = [[50, 60], [50, 61, 62], [50], [50, 63, 64], [70, 80], [90], [90]]
        spans = tuple(span([7, *own]) for own in tails + others)
        requests = [ScoringRequest(prefix=plain([9, *range(100, 127 + n)]), candidates=spans) for n in range(8)]
        prompts = engine._reader.prompts(requests, likelihood=True)
        assert [len(prompt.own) for prompt in prompts[: len(spans)]] == [0, 0, 1, 2, 1, 1, 2, 0, 2, 2, 1, 1]
        goes_on = [prompt for prompt in prompts if prompt.scored]
        outputs = engine._reader.generate([engine._reader.writer.span(prompt) for prompt in goes_on])
        assert [output.num_cached_tokens for output in outputs] == [len(prompt.prefix) for prompt in goes_on]
        for ours, theirs in zip(
            engine.span_log_likelihoods(requests),
            TorchEngine("smollm2-135m", dtype="float32").span_log_likelihoods(requests),
            strict=True,
        ):
            np.testing.assert_allclose(ours.sums, theirs.sums, atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("PlainWorkerExtension", "this worker is a test"),
        ("WrongWorkerExtension", "likelihoods .* where vLLM's labels say"),
        ("WrongStatesWorkerExtension", "a hidden state that says"),
        ("RaisingWorkerExtension", "AttributeError: moved"),
    ],
)
def test_a_backend_that_fails_leaves_vllms_own(broken: str, reason: str) -> None:
    """Prompt log-probabilities of vLLM's own, where ours cannot be taken or read the wrong row; no states then."""
    options: dict[str, Any] = {"dtype": "float32", "slots": 64, "max_length": 1024}
    options["worker_extension_cls"] = f"tests.engines.broken_workers.{broken}"
    engine = VLLMEngine("smollm2-135m", **options)
    requests = [random_request(seed, prefix=30 + seed) for seed in range(3)]
    try:
        assert engine.backend == "plain"
        assert re.search(reason, engine.lacks[HIDDEN_STATES]) and engine.lacks[LOWER_STATES]
        ours = engine.span_log_likelihoods(requests)
        with pytest.raises(EngineError, match=reason):
            engine.span_states(requests)
    finally:
        engine.close()
    theirs = TorchEngine("smollm2-135m", dtype="float32").span_log_likelihoods(requests)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.sums, other.sums, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_a_program_that_does_not_close_ends_well() -> None:
    """vLLM's thread, still reading when the interpreter ended, aborted about every second such program."""
    program = """
from reranker.engines.vllm.engine import VLLMEngine
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence

if __name__ == "__main__":
    span = CandidateSpan(sequence=TokenSequence.from_tokens([7, 8]), scored_from=1)
    requests = [ScoringRequest(prefix=TokenSequence.from_tokens(range(40)), candidates=(span,) * 50)] * 2
    engine = VLLMEngine("smollm2-135m", max_length=1024, slots=64)
    engine.span_log_likelihoods(requests)
"""
    for _ in range(4):
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_whoever_waits_for_a_process_that_is_killed_is_told() -> None:
    engine = VLLMEngine("smollm2-135m", slots=64, max_length=1024)
    core = engine.front.engine_core
    (process,) = core.resources.engine_manager.processes
    requests = [random_request(seed, candidates=50) for seed in range(200)]
    threading.Timer(1.0, process.kill).start()  # in the middle of the lists below
    assert not engine.dead
    with pytest.raises(EngineError, match="process is gone"):
        engine.span_log_likelihoods(requests)
    assert engine.dead
    with pytest.raises(EngineError, match="process is gone"):
        engine.embed_tokens([1])
    engine.close()
    assert not engine.dead
