"""Faults in vLLM's V2 runner, without a process of vLLM: `auto` takes torch on CUDA and says why.

`v2_contract.py` injects the same ones into the whole of vLLM, which takes minutes.
"""

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm")

from reranker.engines import choose_engine, load_engine
from reranker.engines.vllm import engine as engine_module
from reranker.engines.vllm.backends import v2_worker, worker
from reranker.engines.vllm.engine import VLLMEngine
from reranker.engines.vllm.worker import SlotWorkerExtension
from reranker.errors import EngineError
from reranker.protocols import HIDDEN_STATES, LOWER_STATES
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence
from tests.engines import fake_vllm, faults
from tests.engines.faults import FAULTS, NEEDS, check_fault
from tests.engines.models import save_tiny_model

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own, at import


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def v2(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM is the fake one, and what broken workers change in a process of their own is put back."""
    monkeypatch.setattr("vllm.LLM", fake_vllm.LLM)
    monkeypatch.setattr(engine_module, "watch", lambda core: None)
    for module, name in ((v2_worker, "_WORKER"), (worker, "_INSTALL"), (worker.span_scoring, "_RUNNER_METHOD")):
        monkeypatch.setattr(module, name, getattr(module, name))


def request(prefix: list[int], *candidates: list[int]) -> ScoringRequest:
    """Candidates that are scored from behind their first token."""
    spans = tuple(CandidateSpan(sequence=TokenSequence.from_tokens(ids), scored_from=1) for ids in candidates)
    return ScoringRequest(prefix=TokenSequence.from_tokens(prefix), candidates=spans)


def test_v2_is_taken_and_reads_what_the_model_says(tiny: str, monkeypatch, caplog) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_engine().name == "vllm"
    monkeypatch.setattr(engine_module, "chosen_device", lambda device: "cpu")
    with caplog.at_level("WARNING"):
        engine = load_engine("auto", tiny, dtype="float32", needs=NEEDS)
    assert isinstance(engine, VLLMEngine) and not caplog.records
    assert (engine.backend, engine.lacks, engine.n_layers) == ("v2_native", {}, 2)
    model = engine._llm.worker.model_runner.model
    lists = [request([1, 2, 3], [7, 20, 30], [7, 21]), request([4], [9, 20])]
    expected = [
        [model.log_probs([7])[0, 20] + model.log_probs([20])[0, 30], model.log_probs([7])[0, 21]],
        [model.log_probs([9])[0, 20]],
    ]
    for found, wanted in zip(engine.span_log_likelihoods(lists), expected, strict=True):
        np.testing.assert_allclose(found.sums, wanted, atol=1e-4)
    for layer, layers in ((None, 2), (1, 1), (2, 2)):
        first, second = engine.span_states(lists, layer)
        np.testing.assert_allclose(first[0], model.states([7, 20], layers).mean(dim=0), atol=1e-5)
        np.testing.assert_allclose(first[1], model.states([7], layers)[0], atol=1e-5)
        np.testing.assert_allclose(second[0], model.states([9], layers)[0], atol=1e-5)
    labels = engine.label_log_probs([request([1, 2], [7, 20])], [5, 6])[0]
    np.testing.assert_allclose(labels, model.log_probs([20])[:, [5, 6]], atol=1e-4)
    engine.close()
    for ask in (engine.span_log_likelihoods, engine.span_states):
        with pytest.raises(EngineError, match="was closed"):
            ask(lists)


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "dying"])
def test_a_fault_is_caught_by_the_fallback(fault: str, tiny: str, monkeypatch, caplog) -> None:
    check_fault(fault, tiny, {}, monkeypatch, caplog)


class Without(SlotWorkerExtension):
    """V2's worker has not an attribute any more."""

    gone: str

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        own = self.model_runner.prompt_logprobs_worker
        kept = {name: getattr(own, name) for name in [*v2_worker._METHODS, "token_id_scores"] if name != self.gone}
        self.model_runner.prompt_logprobs_worker = SimpleNamespace(**kept)
        return super().reranker_take_backend(besides)


class WithoutAdd(Without):
    gone = "add_request"


class WithoutRemove(Without):
    gone = "remove_request"


class WithoutScoring(Without):
    gone = "compute_prompt_token_id_logprobs"


class WithoutRecord(Without):
    gone = "token_id_scores"


class AnotherSignature(SlotWorkerExtension):
    """V2's worker is asked in another way."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        own = self.model_runner.prompt_logprobs_worker

        def changed(logits_fn: Any, hidden_states: Any, input_batch: Any) -> dict[str, Any]:
            raise NotImplementedError

        own.compute_prompt_token_id_logprobs = changed
        return super().reranker_take_backend(besides)


class WithoutSamplingField(SlotWorkerExtension):
    """vLLM cannot be asked for the scores of given ids."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        import vllm

        whole = vllm.SamplingParams
        vllm.SamplingParams = type("SamplingParams", (), {"__init__": lambda self, max_tokens=1: None})
        try:
            return super().reranker_take_backend(besides)
        finally:
            vllm.SamplingParams = whole


class Dropping(SlotWorkerExtension):
    """vLLM drops what it was asked to score, as of a request that begins again."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        taken = super().reranker_take_backend(besides)
        if self._reranker_taken is not None and self._reranker_taken.reader is not None:
            self._reranker_taken.reader._read_step = lambda *_: {}
        return taken


class Failing(SlotWorkerExtension):
    """V2's batch has an attribute under another name, which shows when the first prompt is read."""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        taken = super().reranker_take_backend(besides)
        if self._reranker_taken is not None and self._reranker_taken.reader is not None:
            inner = self._reranker_taken.reader._read_step

            def read(states: Any, batch: Any, lengths: Any) -> Any:
                return inner(states, SimpleNamespace(req_ids=batch.req_ids), lengths)

            self._reranker_taken.reader._read_step = read
        return taken


class Forgetful(SlotWorkerExtension):
    """The states that were summed are not there when they are asked for."""

    def reranker_take(self, numbers: list[int]) -> list[bytes]:
        super().reranker_take(numbers)
        return [b""] * len(numbers)


class Dead(SlotWorkerExtension):
    """The process is gone when the first prompt is read."""

    engine: Any

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        from vllm.v1.engine.exceptions import EngineDeadError

        def dead() -> list[Any]:
            self.engine.engine_core.resources.engine_dead = True
            raise EngineDeadError

        self.engine.step = dead
        return super().reranker_take_backend(besides)


OF_V2 = {
    "WithoutAdd": r"v2_native \(SimpleNamespace of this vLLM has no add_request\(req_id, req_idx, sampling_params\)\)",
    "WithoutRemove": r"v2_native \(SimpleNamespace of this vLLM has no remove_request\(req_id\)\)",
    "WithoutScoring": r"v2_native \(SimpleNamespace of this vLLM has no compute_prompt_token_id_logprobs\(",
    "WithoutRecord": r"v2_native \(SimpleNamespace of this vLLM has no token_id_scores\)",
    "AnotherSignature": r"v2_native \(PromptLogprobsWorker of this vLLM has no compute_prompt_token_id_logprobs\(",
    "WithoutSamplingField": r"v2_native \(SamplingParams of this vLLM has no prompt_logprob_start, prompt_logprob_",
    "Dropping": r"v2_native \(its self-check failed with EngineError: vLLM dropped what was asked",
    "Failing": r"v2_native \(its self-check failed with AttributeError: .*idx_mapping_np",
    "Forgetful": r"v2_native \(its self-check failed with EngineError: vLLM dropped what was asked",
    "Dead": r"vLLM's process is gone",
}
"""Worker -> what the reason has to say."""


@pytest.mark.parametrize("broken", list(OF_V2))
def test_a_fault_of_v2_alone_is_caught_by_the_fallback(broken: str, tiny: str, monkeypatch, caplog) -> None:
    monkeypatch.setitem(faults.FAULTS, "of v2", (f"{__name__}.{broken}", OF_V2[broken]))
    check_fault("of v2", tiny, {}, monkeypatch, caplog)


def test_without_hidden_states_v2_falls_back_to_vllms_own_way(tiny: str, monkeypatch) -> None:
    """A scorer that needs no states keeps vLLM: likelihoods are right, and what is missing is told."""
    monkeypatch.setattr("reranker.engines.vllm.process._EXTENSION", f"{__name__}.Dropping")
    engine = VLLMEngine(tiny, dtype="float32")
    assert engine.backend == "plain" and engine.lacks.keys() == {HIDDEN_STATES, LOWER_STATES}
    assert "v2_native" in engine.lacks[HIDDEN_STATES]
    model = engine._llm.worker.model_runner.model
    found = engine.span_log_likelihoods([request([1, 2, 3], [7, 20], [7, 21])])[0].sums
    np.testing.assert_allclose(found, model.log_probs([7])[0, [20, 21]], atol=1e-4)
    with pytest.raises(EngineError, match="engine='torch'"):
        engine.span_states([request([1], [7, 20])])
    engine.close()
