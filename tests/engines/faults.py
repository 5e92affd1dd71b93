"""Faults injected in vLLM's worker, and what `auto` and `--engine vllm` make of each; of V1 and of V2."""

import logging
import re
from typing import Any

import pytest

from reranker import engines
from reranker.engines import EngineChoice, load_engine
from reranker.engines.vllm import process
from reranker.errors import RerankerError
from reranker.protocols import HIDDEN_STATES, LOWER_STATES
from tests.contracts.engine import random_request

FAULTS = {
    "moved": ("MovedWorkerExtension", r"has no moved_elsewhere"),
    "wrong likelihoods": ("WrongWorkerExtension", r"likelihoods .* where vLLM's labels say"),
    "wrong states": ("WrongStatesWorkerExtension", r"a hidden state that says"),
    "all layers": ("AllLayersWorkerExtension", r"states of layer 1 differ by"),
    "compiled": ("CompiledWorkerExtension", r"enforce_eager=False"),
    "raising": ("RaisingWorkerExtension", r"AttributeError: moved"),
    "dying": ("DyingWorkerExtension", r"vLLM failed while it was set up|vLLM's process is gone"),
    "unloadable": ("SlotWorkerExtension", r"vLLM cannot load"),
}
"""Name -> the worker, of `broken_workers` or with its module, and what the reason has to say."""

NEEDS = (HIDDEN_STATES, LOWER_STATES)


def check_fault(
    name: str, model: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` takes torch and says why in one line; vLLM by its name is an error that says the same.

    Args:
        name: of the fault.
        model: a small one, with layers below the last.
        options: of the vLLM engine; through `monkeypatch`, for torch stands in with none of them.
    """
    broken, reason = FAULTS[name]
    if name == "unloadable":  # vLLM's own check, whose error has several lines
        options = options | {"max_num_seqs": 64, "max_num_batched_tokens": 32}
    path = broken if "." in broken else f"tests.engines.broken_workers.{broken}"
    monkeypatch.setattr(process, "_EXTENSION", path)
    built = engines._built
    monkeypatch.setattr(
        engines,
        "_built",
        lambda engine, model, dtype, given: built(engine, model, dtype, given | (options if engine == "vllm" else {})),
    )
    monkeypatch.setattr(engines, "choose_engine", lambda: EngineChoice(name="vllm", reason="there is a GPU"))
    with caplog.at_level(logging.WARNING, "reranker.engines"):
        engine = load_engine("auto", model, dtype="float32", needs=NEEDS)
    try:
        assert engine.name == "torch"
        assert engine.span_states([random_request(0)], 1)[0].any()  # type: ignore[attr-defined]
    finally:
        engine.close()
    (said,) = [one.getMessage() for one in caplog.records if one.name == "reranker.engines"]
    assert "engine 'auto' is 'torch'" in said and re.search(reason, said) and "\n" not in said, said
    with pytest.raises(RerankerError, match=reason):
        load_engine("vllm", model, dtype="float32", needs=NEEDS)
