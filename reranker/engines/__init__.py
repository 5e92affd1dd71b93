"""Engines: one protocol (`reranker.protocols.Engine`), several ways to run a model; importing this loads none of them.

    torch     packed forward pass; float32 is the numerical reference
    vllm      in-process vLLM with its prefix cache
    openai    any vLLM OpenAI server, over HTTP; no soft prompts
    lexical   no model: texts as bags of words, what an LM has to beat
    encoder   a sentence encoder, MiniLM by default
    scripted  no model: scores from a plain function, for tests

To add an engine: write a class that passes `tests/contracts/engine.py` and give it a line in `_ENGINES`.
"""

import importlib
import importlib.util
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker.errors import ConfigError
from reranker.hub import DEFAULT_MODEL, ResolvedModel
from reranker.protocols import Engine, Limited

logger = logging.getLogger(__name__)

AUTO = "auto"


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
    "encoder": _Entry(
        module="reranker.engines.encoder",
        attribute="EncoderEngine",
        packages=("torch", "transformers"),
        extra="torch,text-embedding",
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


def reads_a_model(name: str) -> bool:
    """Whether the engine takes a model of its own."""
    return name not in _ENGINES or _ENGINES[name].has_model


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
    return EngineChoice(name="vllm", reason="there is a GPU; torch stands in where vLLM cannot do what is needed")


def load_engine(
    name: str = AUTO,
    model: str | Path | ResolvedModel = DEFAULT_MODEL,
    *,
    dtype: str = "auto",
    needs: Collection[str] = (),
    **options: Any,
) -> Engine:
    """Loads a model into an engine.

    Args:
        name: one of `available_engines()`, or "auto", which logs its choice. Where that is vLLM, and it does not load
            or lacks something of `needs`, "auto" takes torch and says why.
        model: a known name, a Hugging Face id, a directory or a `ResolvedModel`. The scripted engine has none.
        dtype: "bfloat16", "float32" or "auto"; the openai engine's server has its own.
        needs: what the engine has to do beside scoring (`protocols.HIDDEN_STATES`, `LOWER_STATES`).
        **options: further arguments of the engine's class.

    Raises:
        ConfigError: unknown engine or option, a missing package (the message names the extra to install), or an engine
            asked for by its name that lacks something of `needs`.
        ModelError: the model cannot be found, fetched or loaded.
    """
    if name != AUTO:
        return _able(name, _built(name, model, dtype, options), needs)
    choice = choose_engine()
    logger.info("engine 'auto' is %r: %s", choice.name, choice.reason)
    if choice.name != "vllm":
        return _built(choice.name, model, dtype, options)
    try:
        return _able("vllm", _built("vllm", model, dtype, options), needs)
    except Exception as error:  # whatever it is: there is another way
        why = " ".join(str(error).split())  # vLLM's errors have many lines
        logger.warning("engine 'auto' is 'torch', for vLLM cannot be taken: %s", why)
    try:
        return _built("torch", model, dtype, options)
    except ConfigError as error:
        raise ConfigError(f"{error} (torch stands in for vLLM, which cannot be taken: {why})") from error


def _able(name: str, engine: Engine, needs: Collection[str]) -> Engine:
    """The engine, if it lacks nothing that is needed; else it is closed."""
    lacks = engine.lacks if isinstance(engine, Limited) else {}
    for need in needs:
        if need in lacks:
            engine.close()
            raise ConfigError(
                f"the scorer needs {need}, and engine {name!r} shows none here: {lacks[need]}. Take engine 'torch' "
                "or 'auto', or a scorer that does without (scorer: likelihood, labels or listwise)"
            )
    return engine


def _built(name: str, model: str | Path | ResolvedModel, dtype: str, options: dict[str, Any]) -> Engine:
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


__all__ = ["AUTO", "EngineChoice", "available_engines", "choose_engine", "load_engine", "reads_a_model"]
