"""The worker's side: which backend this vLLM's model runner has what it takes for."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from reranker.engines.vllm import span_scoring
from reranker.engines.vllm.backends import layers, v2_worker
from reranker.engines.vllm.backends.layers import LayerStop
from reranker.engines.vllm.backends.plain import Plain
from reranker.engines.vllm.backends.v1_patched import V1Patched
from reranker.engines.vllm.backends.v2_native import V2Native


class Reader(Protocol):
    """What a backend puts into the runner.

    Attributes:
        kept: what it read, under the numbers that requests gave.
        stop: what stops the model below its last layer; None where nothing does.
    """

    kept: dict[int, torch.Tensor]
    stop: LayerStop | None

    def layers_asked(self) -> Collection[int | None]:
        """For whose states requests of the coming step ask; None for the last layer's, or for other things."""

    def log_prob(self, state: torch.Tensor, token: int) -> float:
        """log p of a token after one state, in nats."""

    def remove(self) -> None:
        """Leaves the runner as it was."""


_INSTALL: Mapping[str, Callable[[Any], Reader | str]] = {
    V1Patched.name: span_scoring.install,
    V2Native.name: v2_worker.install,
}


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The backend that a runner took.

    Attributes:
        name: of it.
        reader: what it put into the runner; None for vLLM's own way.
        refused: why those before it were not taken, by name.
        all_layers: why the model cannot stop below its last layer; "" where it can.
    """

    name: str
    reader: Reader | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    all_layers: str = "its backend shows no hidden states"


def take(runner: Any, besides: Collection[str], slots: int) -> Taken:
    """Puts the first backend that fits into a model runner. An installation that fails is a reason, never an error.

    Args:
        runner: vLLM's model runner.
        besides: names of backends that are not to be taken.
        slots: rows of the embedding table beyond the vocabulary, which vLLM's own way needs logits for.
    """
    refused: dict[str, str] = {}
    for name, install in _INSTALL.items():
        if name in besides:
            continue
        reader: Reader | str
        try:
            reader = install(runner)
        except Exception as error:
            reader = f"{type(error).__name__}: {error}"
        if not isinstance(reader, str):
            return Taken(name=name, reader=reader, refused=refused, all_layers=_stop_at_layers(runner, reader))
        refused[name] = reader
    _pad_logits(runner.get_model(), slots)
    return Taken(name=Plain.name, refused=refused)


def _stop_at_layers(runner: Any, reader: Reader) -> str:
    """Lets the model stop below its last layer. Returns "", or why it cannot."""
    try:
        stop = layers.install(runner, reader.layers_asked)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if isinstance(stop, str):
        return stop
    reader.stop = stop
    return ""


def _pad_logits(model: Any, slots: int) -> None:
    """vLLM looks up the log-probability of every prompt token, slots included: gives slots a column."""
    compute_logits = model.compute_logits

    def padded(*args: Any, **kwargs: Any) -> Any:
        logits = compute_logits(*args, **kwargs)
        return logits if logits is None else torch.nn.functional.pad(logits, (0, slots), value=float("-inf"))

    model.compute_logits = padded
