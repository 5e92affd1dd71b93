"""How a prompt is adapted to a domain: number and size of gradient steps, kept beside a prompt that was trained so."""

import json
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from reranker.errors import ConfigError, PromptError
from reranker.utils.atomic_io import write_json

INNER_LOOP_FILE = "inner_loop.json"
_LEFT = "step_sizes.safetensors"


@dataclass(frozen=True, kw_only=True)
class InnerLoop:
    """Gradient steps on lists of a domain.

    Attributes:
        steps: how many.
        rate: size of each, in units of the prompt's root mean square.

    Raises:
        ConfigError: no step, or a size that is not above 0.
    """

    steps: int = 3
    rate: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1 or not (isfinite(self.rate) and self.rate > 0):
            raise ConfigError(f"a prompt is adapted by 1 or more steps of a size above 0, not {self}")

    def save(self, prompt: Path) -> None:
        """Writes it into a prompt's folder. Raises OSError when the disk refuses."""
        write_json(prompt / INNER_LOOP_FILE, asdict(self))

    @classmethod
    def beside(cls, prompt: Path) -> "InnerLoop | None":
        """What `save` wrote into a prompt's folder, if anything.

        Raises:
            PromptError: the file is damaged, or the folder holds step sizes by coordinate.
        """
        path = prompt / INNER_LOOP_FILE
        if not path.exists():
            if (prompt / _LEFT).exists():
                raise PromptError(
                    f"{prompt / _LEFT}: step sizes a coordinate have left the product: delete the file and say steps "
                    "and rate, or train the prompt again"
                )
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(steps=int(found["steps"]), rate=float(found["rate"]))
        except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
            raise PromptError(f"{path} holds no steps and rate ({error!r}): train the prompt again") from error
