"""One prompt of a list, and how vLLM is asked for it."""

from dataclasses import dataclass
from typing import Any

from reranker.engines.vllm.wire import LAYER

LOG_PROBS: dict[str, Any] = {"prompt_logprobs": 0, "skip_reading_prefix_cache": False}
"""Options that make vLLM read the prompt, of which the beginning may come from its cache."""

Call = tuple[list[int], dict[str, Any]]
"""Token ids and options of SamplingParams."""


@dataclass(kw_only=True, eq=False)
class Prompt:
    """A candidate behind what all candidates of its list begin with, or its whole branch does.

    Attributes:
        prefix: that beginning.
        own: the candidate's tokens.
        scored_from: where scoring starts within `own`.
        transfer: kv_transfer_params by which the prefix is found computed.
        first: Σ log p of scored tokens that were read with the prefix, in nats.
        layer: how many layers are computed for its states; None for all.
    """

    prefix: list[int]
    own: list[int]
    scored_from: int
    transfer: dict[str, Any]
    first: float = 0.0
    layer: int | None = None

    @property
    def start(self) -> int:
        """Where scoring starts within the whole prompt."""
        return len(self.prefix) + self.scored_from

    @property
    def scored(self) -> list[int]:
        """The tokens that are still to be scored."""
        return self.own[self.scored_from :]


def extra(transfer: dict[str, Any], others: dict[str, Any] | None = None) -> dict[str, Any]:
    """SamplingParams' extra_args; a request that names no tail gets no kv_transfer_params."""
    return {"extra_args": ({"kv_transfer_params": transfer} if transfer else {}) | (others or {})}


def stopping(layer: int | None) -> dict[str, Any]:
    """What a request that is computed up to a layer says of it in its extra_args."""
    return {} if layer is None else {LAYER: layer}


def cache_salt(call: Call) -> str | None:
    """Requests that stop at a layer share cached blocks with their like alone: the layers above left theirs empty."""
    layer = call[1].get("extra_args", {}).get(LAYER)
    return None if layer is None else f"{LAYER}-{layer}"
