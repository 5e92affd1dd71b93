"""Stops vLLM's model at a layer below the last, where only hidden states of that layer are asked for.

Works on any model of vLLM's usual form: layers `start_layer` to `end_layer` of a list, then a norm. The weights and the
cache stay as they are. A stopped step leaves the upper layers' part of its cache blocks unwritten: requests that stop
at a layer have a cache salt of their own, so that no others begin with these blocks.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch

_TRUNK = ("layers", "start_layer", "end_layer", "norm")


class LayerStop:
    """Takes the place of a model's forward pass without its head.

    A step all of whose requests ask for one layer ends there. In a step with others, all layers are computed and the
    states of the layers that are asked for are put aside, behind the same last norm.

    Args:
        trunk: the model without its head.
        asked: the layers that requests of the coming step ask for, None among them for the last one.

    Attributes:
        stops: whether steps may end early. Both ways give the same states; the engine compares them.
    """

    def __init__(self, trunk: Any, asked: Callable[[], Collection[int | None]]) -> None:
        self.stops = True
        self._trunk, self._asked = trunk, asked
        self._forward = trunk.forward
        self._ended: int | None = None  # where the last step did; None for the last layer
        self._aside: dict[int | None, torch.Tensor] = {}
        trunk.forward = self._run

    def __len__(self) -> int:
        return len(self._trunk.layers)

    def states(self, layer: int | None, hidden_states: torch.Tensor) -> torch.Tensor:
        """(tokens, dim) states after a layer and the last norm, of the step that gave `hidden_states`."""
        return hidden_states if layer == self._ended else self._aside[layer]

    def remove(self) -> None:
        """Gives the model its own forward pass back."""
        del self._trunk.forward

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        self._ended, self._aside = None, {}
        asked = set(self._asked())
        wanted = sorted(layer for layer in asked if layer is not None)
        if not wanted:
            return self._forward(*args, **kwargs)
        if len(asked) == 1 and self.stops:
            return self._stopped(wanted[0], *args, **kwargs)
        hooks = [self._trunk.layers[layer - 1].register_forward_hook(self._putting_aside(layer)) for layer in wanted]
        try:
            return self._forward(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def _stopped(self, layer: int, *args: Any, **kwargs: Any) -> Any:
        last = self._trunk.end_layer
        self._trunk.end_layer = self._ended = layer
        try:
            return self._forward(*args, **kwargs)
        finally:
            self._trunk.end_layer = last

    def _putting_aside(self, layer: int) -> Callable[[Any, Any, Any], None]:
        def put(module: Any, inputs: Any, output: Any) -> None:
            parts = output if isinstance(output, tuple) else (output,)  # a residual sum beside what is to be added
            normed = self._trunk.norm(*(part.clone() for part in parts))  # norms may write into what they are given
            self._aside[layer] = normed[0] if isinstance(normed, tuple) else normed

        return put


def install(runner: Any, asked: Callable[[], Collection[int | None]]) -> LayerStop | str:
    """Puts a `LayerStop` into a model runner's model, or says what keeps it out."""
    if not getattr(runner.model_config, "enforce_eager", False):
        return "vLLM's model is compiled, or replayed from CUDA graphs, and runs all its layers (enforce_eager=False)"
    model = runner.get_model()
    found = [one for one in model.modules() if all(hasattr(one, name) for name in _TRUNK)]
    if len(found) != 1:
        return f"{type(model).__name__} of this vLLM has {len(found)} modules with {', '.join(_TRUNK)}"
    (trunk,) = found
    if not isinstance(trunk.layers, torch.nn.ModuleList) or (trunk.start_layer, trunk.end_layer) != (
        0,
        len(trunk.layers),
    ):
        return f"{type(trunk).__name__} has no whole list of layers here (pipeline parallelism?)"
    return LayerStop(trunk, asked)
