"""Which backend a model runner takes, and how each asks and reads."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from reranker import engines
from reranker.engines import choose_engine, load_engine
from reranker.engines.scripted import ScriptedEngine
from reranker.engines.vllm.backends import BACKENDS
from reranker.engines.vllm.backends import worker as side
from reranker.engines.vllm.backends.base import answered
from reranker.engines.vllm.backends.plain import Plain
from reranker.engines.vllm.backends.v2_native import V2Native
from reranker.engines.vllm.calls import Prompt
from reranker.errors import ConfigError, EngineError, ModelError
from reranker.protocols import HIDDEN_STATES

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own, at import


def fresh(token: int) -> int:
    return token + 1000


def prompt(own: list[int], scored_from: int = 1) -> Prompt:
    return Prompt(prefix=[1, 2, 3], own=own, scored_from=scored_from, transfer={"tail": 5})


def test_v2_is_asked_for_one_id_a_scored_token_and_for_no_more_rows_than_vllm_takes() -> None:
    for own, scored_from in (([7, 20], 1), ([7, 20, 30, 40], 1), ([7, 8, 20, 30], 2)):
        token_ids, options = V2Native().span(prompt(own, scored_from), fresh)
        assert token_ids == [1, 2, 3, 1007, *own[1:]]
        rows, start = options["prompt_logprob_token_ids"], options["prompt_logprob_start"]
        assert len(rows) == len(token_ids) - 1 - start  # vLLM's own check
        # row i is what follows prompt token start + i
        assert [[token_ids[start + i + 1]] for i in range(len(rows))] == rows
        assert rows == [[token] for token in own[scored_from:]]
        assert options["skip_reading_prefix_cache"] is False
        assert options["extra_args"]["kv_transfer_params"] == {"tail": 5}
    token_ids, options = V2Native().states(prompt([7, 20, 30]), 4, fresh)
    assert token_ids == [1, 2, 3, 1007, 20]  # nothing follows the last token's state
    assert "prompt_logprob_token_ids" not in options


def test_v2s_answer_is_summed_and_a_dropped_one_is_an_error_that_says_what_to_do() -> None:
    output = SimpleNamespace(prompt_token_id_logprobs=np.array([[-1.5], [-2.25]], dtype=np.float32))
    assert V2Native().sum(prompt([7, 20, 30]), output) == -3.75
    dropped = V2Native().sum(prompt([7, 20, 30]), SimpleNamespace(prompt_token_id_logprobs=None))
    with pytest.raises(EngineError, match="gpu_memory_utilization"):
        answered(dropped)


@pytest.mark.parametrize("before", [[], [None], [None, {2: SimpleNamespace(logprob=9.0)}]])
def test_plain_counts_rows_from_the_end(before: list) -> None:
    """V1 has a row for each prompt token, V2 for those that it computed."""
    rows = [*before, {20: SimpleNamespace(logprob=-1.0)}, {30: SimpleNamespace(logprob=-2.0)}]
    assert Plain().sum(prompt([7, 20, 30]), SimpleNamespace(prompt_logprobs=rows)) == -3.0
    assert Plain().sum(prompt([7, 20, 30]), SimpleNamespace(prompt_logprobs=rows[-1:])) is None


def model(compute_logits: object = None) -> SimpleNamespace:
    return SimpleNamespace(compute_logits=compute_logits)


def test_a_runner_without_anything_of_ours_takes_vllms_own_with_the_reasons() -> None:
    lm = model(lambda hidden: hidden)
    taken = side.take(SimpleNamespace(get_model=lambda: lm), [], slots=2)
    assert taken.name == Plain.name and taken.reader is None
    assert list(taken.refused) == ["v1_patched", "v2_native"]
    assert "no _get_prompt_logprobs_dict" in taken.refused["v1_patched"]
    assert "no prompt_logprobs_worker" in taken.refused["v2_native"]
    assert lm.compute_logits(torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0, -np.inf, -np.inf]]  # slots have no logit
    assert list(BACKENDS) == [*side._INSTALL, Plain.name]


@pytest.mark.parametrize("broken", ["v1_patched", "v2_native"])
def test_an_installation_that_fails_is_a_reason_and_the_next_is_taken(monkeypatch, broken) -> None:
    class Reader:
        kept: dict = {}  # noqa: RUF012

    def fail(runner):
        raise AttributeError("'Runner' object has no attribute 'moved'")

    others = {name: lambda runner: Reader() for name in side._INSTALL if name != broken}
    monkeypatch.setattr(side, "_INSTALL", {broken: fail, **others})
    taken = side.take(SimpleNamespace(get_model=model), [], slots=2)
    assert taken.name in others and isinstance(taken.reader, Reader)
    assert taken.refused == {broken: "AttributeError: 'Runner' object has no attribute 'moved'"}
    taken = side.take(SimpleNamespace(get_model=model), list(others), slots=2)
    assert taken.name == Plain.name and list(taken.refused) == [broken]


class Limited(ScriptedEngine):
    """An engine that shows no hidden states where it was loaded."""

    lacks = {HIDDEN_STATES: "its backend is 'plain'"}  # noqa: RUF012
    closed = False

    def close(self) -> None:
        type(self).closed = True


@pytest.fixture
def gpu(monkeypatch):
    """What vLLM, and torch, are when `auto` loads them on a machine with a GPU: a class or an error."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    asked = []

    def install(vllm: type | Exception, torch_engine: type | Exception = ScriptedEngine) -> list[str]:
        def built(name, given, dtype, options):
            asked.append(name)
            made = vllm if name == "vllm" else torch_engine
            if isinstance(made, Exception):
                raise made
            return made()

        monkeypatch.setattr(engines, "_built", built)
        return asked

    return install


def test_auto_on_a_gpu_is_vllm_where_it_does_what_is_needed(gpu, caplog) -> None:
    asked = gpu(ScriptedEngine)
    assert choose_engine().name == "vllm"
    load_engine(needs=[HIDDEN_STATES])
    assert asked == ["vllm"] and not caplog.records
    gpu(Limited)
    assert isinstance(load_engine(), Limited)  # nothing that it lacks is needed


@pytest.mark.parametrize(
    ("vllm", "reason"),
    [
        (Limited, "its backend is 'plain'"),
        (ModelError("vLLM cannot load /models/tiny: no kernel image"), "no kernel image"),
        (AttributeError("module 'vllm' has no attribute 'LLM'"), "no attribute 'LLM'"),
        (EngineError("vLLM's process is gone"), "process is gone"),
    ],
)
def test_auto_goes_from_vllm_to_torch_and_says_why(gpu, caplog, vllm, reason) -> None:
    asked = gpu(vllm)
    Limited.closed = False
    with caplog.at_level(logging.WARNING):
        assert isinstance(load_engine(needs=[HIDDEN_STATES]), ScriptedEngine)
    assert asked == ["vllm", "torch"]
    (record,) = caplog.records
    assert reason in record.getMessage() and "'torch'" in record.getMessage()
    assert Limited.closed is (vllm is Limited)  # its memory is free before torch is loaded


def test_an_option_of_vllms_that_torch_does_not_take_is_told_with_both_reasons(gpu) -> None:
    gpu(ModelError("out of memory"), ConfigError("engine 'torch': unexpected keyword argument 'slots'"))
    with pytest.raises(ConfigError, match=r"slots.*stands in for vLLM.*out of memory"):
        load_engine(slots=64)


def test_vllm_by_its_name_is_an_error_that_says_what_to_do(gpu) -> None:
    asked = gpu(Limited)
    Limited.closed = False
    with pytest.raises(ConfigError, match=r"hidden states.*'plain'.*Take engine 'torch' or 'auto', or a scorer"):
        load_engine("vllm", needs=[HIDDEN_STATES])
    assert asked == ["vllm"] and Limited.closed
