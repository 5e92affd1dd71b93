"""Engines: one protocol (`reranker.protocols.Engine`), several ways to run a model; importing this loads none of them.

    torch     packed forward pass; float32 is the numerical reference
    vllm      in-process vLLM with its prefix cache
    openai    any vLLM OpenAI server, over HTTP; no soft prompts
    lexical   no model: texts as bags of words, what an LM has to beat
    scripted  no model: scores from a plain function, for tests

To add an engine: write a class that passes `tests/contracts/engine.py` and give it a line in `_ENGINES`.
"""

import importlib
import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker.errors import ConfigError
from reranker.hub import DEFAULT_MODEL, ResolvedModel
from reranker.protocols import Engine

logger = logging.getLogger(__name__)

AUTO = "auto"

V2_RUNNER_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"
"""vLLM's own switch of its model runner; what reads spans and states here needs V1's."""


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """Which engine `auto` takes here, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Entry:
    module: str
    attribute: str
    packages: tuple[str, ...]
    extra: str
    has_model: bool = True
    has_dtype: bool = True


_ENGINES = {
    "torch": _Entry(
        module="reranker.engines.torch.engine",
        attribute="TorchEngine",
        packages=("torch", "transformers"),
        extra="torch",
    ),
    "vllm": _Entry(
        module="reranker.engines.vllm.engine",
        attribute="VLLMEngine",
        packages=("torch", "transformers", "vllm"),
        extra="cpu' or 'reranker[gpu]",
    ),
    "openai": _Entry(
        module="reranker.engines.openai.engine",
        attribute="OpenAIEngine",
        packages=("httpx", "tenacity", "transformers"),
        extra="openai",
        has_dtype=False,
    ),
    "lexical": _Entry(
        module="reranker.engines.lexical",
        attribute="LexicalEngine",
        packages=(),
        extra="",
        has_model=False,
        has_dtype=False,
    ),
    "scripted": _Entry(
        module="reranker.engines.scripted",
        attribute="ScriptedEngine",
        packages=(),
        extra="",
        has_model=False,
        has_dtype=False,
    ),
}


def available_engines() -> list[str]:
    """Names `load_engine` knows, beside "auto"."""
    return sorted(_ENGINES)


def choose_engine() -> EngineChoice:
    """What "auto" means on this machine.

    Raises:
        ConfigError: no engine that runs a model is installed.
    """
    if _missing("torch"):
        raise ConfigError(_install_hint("torch"))
    import torch

    if not torch.cuda.is_available():
        return EngineChoice(name="torch", reason="no GPU: on a CPU its packed likelihood is the fastest")
    if _missing("vllm"):
        return EngineChoice(name="torch", reason="vLLM is not installed")
    if os.environ.get(V2_RUNNER_VARIABLE) != "0":
        reason = f"vLLM's V2 runner, its default on a GPU, shows no hidden states; {V2_RUNNER_VARIABLE}=0 takes V1"
        return EngineChoice(name="torch", reason=reason)
    return EngineChoice(name="vllm", reason=f"there is a GPU, and {V2_RUNNER_VARIABLE}=0 chose vLLM's V1 runner")


def load_engine(
    name: str = AUTO, model: str | Path | ResolvedModel = DEFAULT_MODEL, *, dtype: str = "auto", **options: Any
) -> Engine:
    """Loads a model into an engine.

    Args:
        name: one of `available_engines()`, or "auto", which logs its choice.
        model: a known name, a Hugging Face id, a directory or a `ResolvedModel`. The scripted engine has none.
        dtype: "bfloat16", "float32" or "auto"; the openai engine's server has its own.
        **options: further arguments of the engine's class.

    Raises:
        ConfigError: unknown engine or option, or a missing package (the message names the extra to install).
        ModelError: the model cannot be found, fetched or loaded.
    """
    if name == AUTO:
        choice = choose_engine()
        logger.info("engine 'auto' is %r: %s", choice.name, choice.reason)
        name = choice.name
    if name not in _ENGINES:
        raise ConfigError(f"unknown engine {name!r}; choose one of {', '.join([AUTO, *available_engines()])}")
    entry = _ENGINES[name]
    if _missing(name):
        raise ConfigError(_install_hint(name))
    build = getattr(importlib.import_module(entry.module), entry.attribute)
    arguments = [model] if entry.has_model else []
    if entry.has_dtype:
        options = {"dtype": dtype, **options}
    try:
        engine: Engine = build(*arguments, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigError(f"engine {name!r}: {error}") from error
    return engine


def _missing(name: str) -> list[str]:
    return [package for package in _ENGINES[name].packages if importlib.util.find_spec(package) is None]


def _install_hint(name: str) -> str:
    return (
        f"engine {name!r} needs packages that are not installed: {', '.join(_missing(name))}. "
        f"Run `pip install 'reranker[{_ENGINES[name].extra}]'`"
    )


__all__ = ["AUTO", "EngineChoice", "available_engines", "choose_engine", "load_engine"]
