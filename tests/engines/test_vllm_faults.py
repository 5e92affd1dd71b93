"""What becomes of vLLM's V1 runner when something in it is broken; `v2_contract.py` has the same for V2."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from reranker import engines
from reranker.engines import EngineChoice, load_engine
from reranker.engines.scripted import ScriptedEngine
from reranker.engines.vllm.backends import worker as side
from reranker.engines.vllm.backends.v2_worker import install as install_v2
from reranker.engines.vllm.span_scoring import SpanReader
from reranker.engines.vllm.span_scoring import install as install_v1
from reranker.errors import ModelError
from tests.engines.faults import FAULTS, check_fault
from tests.engines.models import save_tiny_model

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own, at import

VOCABULARY, DIM = 40, 6


class V1Runner:
    """All that `v1_patched` wants of a runner."""

    def __init__(self) -> None:
        self.num_prompt_logprobs: dict[str, int] = {}
        self.requests: dict[str, Any] = {}
        self.input_batch = SimpleNamespace(req_id_to_index={})
        self.query_start_loc = SimpleNamespace(np=[0])
        self.model_config = SimpleNamespace(dtype=torch.float32, enforce_eager=True)
        self.model: Any = SimpleNamespace(
            compute_logits=None,
            lm_head=SimpleNamespace(weight=torch.zeros(VOCABULARY, DIM), tp_size=1),
            logits_processor=SimpleNamespace(org_vocab_size=VOCABULARY, scale=1.0, soft_cap=None),
        )

    def get_model(self) -> Any:
        return self.model

    def _get_prompt_logprobs_dict(self, hidden_states: Any, num_scheduled_tokens: Any) -> dict[str, Any]:
        raise NotImplementedError


class Renamed(V1Runner):
    """The method has another parameter."""

    def _get_prompt_logprobs_dict(self, hidden_states: Any, num_scheduled_tokens: Any, more: Any = None) -> Any:
        raise NotImplementedError


def test_v1_takes_a_runner_that_has_everything() -> None:
    assert isinstance(install_v1(V1Runner()), SpanReader)


@pytest.mark.parametrize("gone", ["num_prompt_logprobs", "requests", "input_batch", "query_start_loc"])
def test_each_attribute_that_v1_needs_is_named_when_it_is_gone(gone: str) -> None:
    runner = V1Runner()
    delattr(runner, gone)
    assert install_v1(runner) == f"V1Runner of this vLLM has no {gone}"
    assert "_get_prompt_logprobs_dict" not in vars(runner)  # left as it was


@pytest.mark.parametrize("gone", ["lm_head", "logits_processor"])
def test_a_head_that_is_gone_is_named(gone: str) -> None:
    runner = V1Runner()
    delattr(runner.model, gone)
    assert "has no whole lm_head" in install_v1(runner)


def test_a_method_of_another_signature_is_not_replaced() -> None:
    assert "has no _get_prompt_logprobs_dict(self, hidden_states, num_scheduled_tokens)" in install_v1(Renamed())


class PromptWorker:
    """All that `v2_native` wants of V2's prompt worker."""

    def __init__(self) -> None:
        self.token_id_scores: dict[str, Any] = {}

    def add_request(self, req_id: Any, req_idx: Any, sampling_params: Any) -> None: ...

    def remove_request(self, req_id: Any) -> None: ...

    def compute_prompt_token_id_logprobs(
        self, logits_fn: Any, hidden_states: Any, input_batch: Any, prompt_lens: Any
    ) -> None: ...


def v2_runner(worker: Any) -> SimpleNamespace:
    model = V1Runner().model
    config = SimpleNamespace(dtype=torch.float32, enforce_eager=True, get_vocab_size=lambda: VOCABULARY)
    return SimpleNamespace(prompt_logprobs_worker=worker, get_model=lambda: model, model_config=config)


@pytest.mark.parametrize(
    "gone", ["add_request", "remove_request", "compute_prompt_token_id_logprobs", "token_id_scores"]
)
def test_each_attribute_that_v2_needs_is_named_when_it_is_gone(gone: str) -> None:
    assert not isinstance(install_v2(v2_runner(PromptWorker())), str)
    names = {name: one for name, one in vars(PromptWorker).items() if name not in (gone, "__dict__", "__weakref__")}
    if gone == "token_id_scores":
        del names["__init__"]
    worker = type("PromptWorker", (), names)()
    runner = v2_runner(worker)
    assert f"PromptWorker of this vLLM has no {gone}" in install_v2(runner)
    assert runner.prompt_logprobs_worker is worker


def test_sampling_fields_of_v2_that_are_gone_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm

    class SamplingParams:
        def __init__(self, max_tokens: int = 1, prompt_logprob_start: int = 0) -> None: ...

    monkeypatch.setattr(vllm, "SamplingParams", SamplingParams)
    found = install_v2(v2_runner(PromptWorker()))
    assert found == "SamplingParams of this vLLM has no prompt_logprob_token_ids"


def test_what_is_gone_reaches_the_engine_as_the_reason() -> None:
    runner = V1Runner()
    del runner.requests
    taken = side.take(runner, [], slots=2)
    assert taken.name == "plain" and taken.refused["v1_patched"] == "V1Runner of this vLLM has no requests"


def test_a_reason_of_several_lines_is_told_in_one(monkeypatch, caplog) -> None:
    """vLLM's errors, and pydantic's in them, have many."""

    def built(name: str, *_: Any) -> Any:
        if name == "vllm":
            raise ModelError("vLLM cannot load /m: 1 validation error for ModelConfig\n  Value error, dtype\n    [x]")
        return ScriptedEngine()

    monkeypatch.setattr(engines, "_built", built)
    monkeypatch.setattr(engines, "choose_engine", lambda: EngineChoice(name="vllm", reason="there is a GPU"))
    with caplog.at_level(logging.WARNING):
        load_engine()
    (record,) = caplog.records
    assert record.getMessage().endswith("1 validation error for ModelConfig Value error, dtype [x]")


OPTIONS = {"slots": 64, "kv_cache_gib": 0.1, "max_length": 256}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import LlamaConfig

    from tests.engines.models import TINY

    config = LlamaConfig(**TINY | {"hidden_size": 64}, num_attention_heads=2, num_key_value_heads=1, head_dim=32)
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny"), config))


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_caught_by_the_fallback(fault: str, tiny: str, monkeypatch, caplog) -> None:
    check_fault(fault, tiny, OPTIONS, monkeypatch, caplog)
