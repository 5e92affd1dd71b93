"""Learned step sizes: how far each coordinate of a prompt moves when it is adapted to a domain (Meta-SGD)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reranker.errors import PromptError
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.utils.safetensors_io import read_tensors, write_tensors

STEP_SIZES_FILE = "step_sizes.safetensors"
_RATES, _STEPS = "inner_rate", "inner_steps"


@dataclass(frozen=True, kw_only=True, eq=False)
class StepSizes:
    """What `train prompt` with an inner loop over prompts leaves beside the prompt.

    Attributes:
        rates: (k, dim) float32, in units of the prompt's root mean square.
        steps: how many it was trained to be adapted by.

    Raises:
        PromptError: a value that is not finite, or no step.
    """

    rates: NDArray[np.float32]
    steps: int

    def __post_init__(self) -> None:
        if not np.isfinite(self.rates).all() or self.steps < 1:
            raise PromptError(f"step sizes must be finite, for 1 or more steps; got {self.steps} steps")
        object.__setattr__(self, "rates", np.ascontiguousarray(self.rates, dtype=np.float32))

    def require_prompt(self, prompt: SoftPrompt) -> None:
        """Raises PromptError when they were learned for a prompt of another shape."""
        if self.rates.shape != prompt.vectors.shape:
            raise PromptError(
                f"step sizes of shape {self.rates.shape} for a prompt of shape {prompt.vectors.shape}: they were "
                "learned with another prompt"
            )

    def save(self, path: Path) -> None:
        """Writes safetensors. Raises OSError when the disk refuses."""
        write_tensors(path, {_RATES: self.rates}, {_STEPS: str(self.steps)})

    @classmethod
    def load(cls, path: Path) -> "StepSizes":
        """Reads what `save` wrote.

        Raises:
            PromptError: the file is missing, damaged or something else.
        """
        tensors, notes = read_tensors(path, [_RATES], "file of step sizes")
        if not notes.get(_STEPS, "").isdecimal():
            raise PromptError(f"{path} does not say how many steps its sizes are for: save it again")
        return cls(rates=tensors[_RATES], steps=int(notes[_STEPS]))

    @classmethod
    def beside(cls, prompt: Path) -> "StepSizes | None":
        """Those in a prompt's folder, if it has any."""
        path = prompt / STEP_SIZES_FILE
        return cls.load(path) if path.exists() else None
