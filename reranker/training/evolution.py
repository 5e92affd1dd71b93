"""Evolution of a prompt without gradients: CMA-ES in a random subspace, through any engine.

prompt = start + root mean square of start · P x, with x of few floats and P drawn once (Sun et al. 2022, "Black-Box
Tuning for Language-Model-as-a-Service"); x moves by CMA-ES (Hansen 2016).
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from reranker.errors import ConfigError
from reranker.training.algorithms import PROMPT, EpisodeLoss, root_mean_square
from reranker.training.tasks import TaskSampler

_TOLD = "told"


class Evolution:
    """One generation of CMA-ES a step; all its members read the same lists.

    A member's loss depends on what was drawn before and on the losses told, and on nothing else: so the losses are all
    that a checkpoint keeps, and a resumed run replays them.

    Args:
        loss: reads lists under a prompt; no gradient is asked for.
        sampler: training episodes.
        lists: read in a step, shared among the members.
        start: (k, dim) the prompt at x = 0.
        subspace: length of x.
        sigma: spread of the first members, in units of the start's root mean square.
        population: members of a generation; None takes 4 + 3 ln(subspace).
        seed: of projection and members.

    Raises:
        ConfigError: cmaes is not installed, or there are fewer lists than members.
    """

    name = "es"

    def __init__(
        self,
        loss: EpisodeLoss,
        sampler: TaskSampler,
        lists: int,
        start: torch.Tensor,
        *,
        subspace: int = 16,
        sigma: float = 0.1,
        population: int | None = None,
        seed: int = 0,
    ) -> None:
        try:
            from cmaes import CMA
        except ImportError as error:
            raise ConfigError(f"algorithm: es needs cmaes ({error}): pip install 'reranker[train]'") from error
        self._loss, self._sampler = loss, sampler
        self._start = start.detach().clone()
        random = np.random.default_rng((seed, subspace))
        drawn = random.standard_normal((start.numel(), subspace)) / np.sqrt(subspace)
        self._projection = torch.from_numpy(drawn).to(start) * root_mean_square(start)
        self._cma = CMA(mean=np.zeros(subspace), sigma=sigma, seed=seed, population_size=population)
        self._told: list[list[float]] = []
        if lists < self._cma.population_size:
            raise ConfigError(
                f"lists_per_step is {lists}, but each of {self._cma.population_size} members of a generation reads at "
                "least one list: raise lists_per_step or lower population"
            )
        self._lists = lists // self._cma.population_size

    def accumulate(self, values: dict[str, torch.Tensor], step: int) -> float:
        """Moves the prompt itself and fills no gradient; returns the mean loss of the generation's lists."""
        episodes = self._sampler.batch(step, self._lists)
        members = self._members()
        with torch.no_grad():
            losses = [
                sum(part.loss.item() for part in self._loss.parts({PROMPT: self._prompt(one)}, episodes)) / self._lists
                for one in members
            ]
            self._tell(members, losses)
            values[PROMPT].copy_(self._prompt(self._cma.mean))
        return float(np.mean(losses))

    def state(self) -> dict[str, torch.Tensor]:
        return {_TOLD: torch.tensor(self._told, dtype=torch.float64)}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        for losses in state[_TOLD].tolist():
            self._tell(self._members(), losses)

    def _members(self) -> list[NDArray[np.float64]]:
        return [self._cma.ask() for _ in range(self._cma.population_size)]

    def _tell(self, members: list[NDArray[np.float64]], losses: list[float]) -> None:
        self._cma.tell(list(zip(members, losses, strict=True)))
        self._told.append(losses)

    def _prompt(self, x: NDArray[np.float64]) -> torch.Tensor:
        return self._start + (self._projection @ torch.from_numpy(x).to(self._projection)).view_as(self._start)
