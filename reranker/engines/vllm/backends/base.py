"""What a backend is: how a prompt is asked for, and how its answer is read."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from reranker.engines.vllm.calls import Call, Prompt
from reranker.errors import EngineError

_V = TypeVar("_V")

Fresh = Callable[[int], int]
"""Gives a token another id, under which the prefix cache does not know it."""


class Backend(Protocol):
    """The engine's side of a backend; `worker` has the other.

    Attributes:
        name: as it is told.
        reads_states: whether it shows hidden states.
        reads_followers: whether the tokens that many spans begin with are read from the prefix's last state.
    """

    name: ClassVar[str]
    reads_states: ClassVar[bool]
    reads_followers: ClassVar[bool]

    def span(self, prompt: Prompt, fresh: Fresh) -> Call:
        """For the scored tokens' log-probabilities."""

    def states(self, prompt: Prompt, number: int, fresh: Fresh) -> Call:
        """For the sum of the states that the scored tokens follow, kept in the worker under a number."""

    def sum(self, prompt: Prompt, output: Any) -> float | None:
        """Σ log p of the scored tokens, in nats; None where vLLM dropped the request's scores."""


def answered(value: _V | None) -> _V:
    """What a backend read.

    Raises:
        EngineError: nothing, for vLLM dropped it.
    """
    if value is None:
        raise EngineError(
            "vLLM dropped what was asked of a prompt that it had to begin again: its KV cache is too small for so "
            "many at once. Give it more memory (gpu_memory_utilization, kv_cache_gib), or send fewer lists at a time"
        )
    return value


def reasons(refused: Mapping[str, str]) -> str:
    """Why backends were not taken, by name, in one line."""
    return "; ".join(f"{name} ({reason})" for name, reason in refused.items())
