"""Compiled layers: norms, rotary embeddings and gates fused into a pass each, around matrix products and attention."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from reranker.engines.torch.attention import is_attending
from reranker.errors import EngineError, ModelError


def compile_layers(lm: Any) -> None:
    """Has the layers of a transformers model compiled for packed rows, at the first of them.

    All layers share what is compiled, for any number of tokens. What needs gradients, and what is written or
    remembered, goes through the layers as they were.

    Raises:
        ModelError: the model's layers are not transformers' own kind.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(f"{type(lm).__name__} has no layers that can be compiled; leave `compiled` away")
    for layer in layers:
        layer.forward = _compiled(layer.forward)


def _compiled(plain: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo.exc import TorchDynamoException

    fused = torch.compile(plain, dynamic=True)

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not is_attending() or torch.is_grad_enabled():
            return plain(*args, **kwargs)
        try:
            return fused(*args, **kwargs)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise EngineError(f"the model could not be compiled ({reason}); leave `compiled` away") from error

    return forward
