"""The engine contracts over vLLM's V2 runner, on a CPU; `test_vllm_v2.py` runs this file in a process of its own."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
from transformers import LlamaConfig

from reranker.engines.torch.engine import TorchEngine
from reranker.engines.vllm.engine import VLLMEngine
from reranker.errors import EngineError
from reranker.types import ScoringRequest, TokenSequence
from tests.contracts.engine import EngineContract, plain, random_request, span
from tests.contracts.states import LayersContract, StatesContract
from tests.engines.faults import FAULTS, check_fault
from tests.engines.models import TINY, save_tiny_model

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(1500)]  # the interpreter is slow

OPTIONS = {"slots": 64, "kv_cache_gib": 0.1, "max_num_seqs": 32, "max_num_batched_tokens": 256}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "1"
    config = LlamaConfig(**TINY | {"hidden_size": 64}, num_attention_heads=2, num_key_value_heads=1, head_dim=32)
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny"), config))


@pytest.fixture(scope="module")
def vllm_engine(tiny: str) -> Iterator[VLLMEngine]:
    engine = VLLMEngine(tiny, dtype="float32", **OPTIONS)
    yield engine
    engine.close()


class TestV2(EngineContract, StatesContract, LayersContract):
    tolerance = 5e-4

    @pytest.fixture
    def engine(self, vllm_engine: VLLMEngine) -> VLLMEngine:
        return vllm_engine

    def test_it_is_v2(self, engine: VLLMEngine) -> None:
        assert engine.backend == "v2_native" and engine.lacks == {} and engine.n_layers == 2

    def test_agrees_with_torch(self, engine: VLLMEngine, tiny: str) -> None:
        """Prefixes that end anywhere in a cache block, with and without soft tokens; the second time from the cache."""
        agree(engine, TorchEngine(tiny, dtype="float32"))
        agree(engine, TorchEngine(tiny, dtype="float32"))

    def test_candidates_begin_behind_the_cached_prefix(self, engine: VLLMEngine) -> None:
        request = ScoringRequest(
            prefix=plain(list(range(64))), candidates=tuple(span([7, 20 + n, 30]) for n in range(4))
        )
        engine.span_log_likelihoods([request])
        prompts = engine._reader.prompts([request])
        outputs = engine._reader.generate([engine._reader.writer.span(prompt) for prompt in prompts])
        assert [output.num_cached_tokens for output in outputs] == [64] * 4

    def test_long_prompts_are_read_in_steps(self, engine: VLLMEngine, tiny: str) -> None:
        """Spans of 150 tokens beside each other, in steps of 256."""
        rng = np.random.default_rng(3)
        spans = tuple(span([7, *rng.integers(0, 200, 150)]) for _ in range(3))
        request = ScoringRequest(prefix=plain(list(range(60))), candidates=spans)
        theirs = TorchEngine(tiny, dtype="float32")
        np.testing.assert_allclose(
            engine.span_log_likelihoods([request])[0].sums, theirs.span_log_likelihoods([request])[0].sums, rtol=1e-4
        )
        np.testing.assert_allclose(engine.span_states([request])[0], theirs.span_states([request])[0], atol=2e-3)


@pytest.mark.parametrize("broken", ["WrongWorkerExtension", "WrongStatesWorkerExtension", "RaisingWorkerExtension"])
def test_a_backend_that_reads_wrongly_is_not_taken(tiny: str, broken: str) -> None:
    options = OPTIONS | {"worker_extension_cls": f"tests.engines.broken_workers.{broken}"}
    engine = VLLMEngine(tiny, dtype="float32", **options)
    try:
        assert engine.backend == "plain"
        agree(engine, TorchEngine(tiny, dtype="float32"), states=False)
        with pytest.raises(EngineError, match="v2_native"):
            engine.span_states([random_request(0)])
    finally:
        engine.close()


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_caught_by_the_fallback(fault: str, tiny: str, monkeypatch, caplog) -> None:
    check_fault(fault, tiny, OPTIONS, monkeypatch, caplog)


def agree(ours: VLLMEngine, theirs: TorchEngine, *, states: bool = True) -> None:
    soft = TokenSequence.from_vectors(theirs.embed_tokens([50, 60, 70]) * np.float32(0.9))
    requests = []
    for seed in range(6):
        request = random_request(seed, candidates=8, prefix=28 + 3 * seed)
        prefix = TokenSequence.concatenate([soft, request.prefix]) if seed % 2 else request.prefix
        requests.append(ScoringRequest(prefix=prefix, candidates=request.candidates))
    pairs = zip(ours.span_log_likelihoods(requests), theirs.span_log_likelihoods(requests), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one.sums, other.sums, atol=1e-3, rtol=0)
    for one, other in zip(
        ours.label_log_probs(requests, [10, 20]), theirs.label_log_probs(requests, [10, 20]), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-3, rtol=0)
    if states:
        for one, other in zip(ours.span_states(requests), theirs.span_states(requests), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-3, rtol=0)
        for one, other in zip(ours.span_states(requests, 1), theirs.span_states(requests, 1), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3, rtol=0)
