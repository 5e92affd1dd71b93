"""The training loop: optimizer, curve, validation, checkpoints that a killed run goes on from exactly."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from reranker.errors import ConfigError, ModelError
from reranker.training.algorithms import PROMPT, algorithm_named
from reranker.training.cavia import ContextReader
from reranker.training.config import MetaConfig
from reranker.training.scorer_weights import ListReader, Recording, cross_fitted_losses
from reranker.training.tasks import Episode, TaskSampler
from reranker.training.torch_loss import Part, TorchLoss, list_losses
from reranker.utils.atomic_io import whole_file, write_json
from reranker.utils.stopping import end_asked, steps, stopped

logger = logging.getLogger(__name__)

CHECKPOINT, CURVE = "checkpoint.pt", "curve.json"


@dataclass(kw_only=True)
class TrainingCurve:
    """What happened so far.

    Attributes:
        losses: mean loss of the lists of each step.
        validation: (step, mean loss of the validation lists after that many steps), cross-fitted where coefficients are
            fitted; the first is the untrained prompt.
        coefficients: (step, a, b, c) as they were fitted.
        lists: lists read forward and backward.
        without_llm: mean loss of the validation lists by the baseline (by chance, where none stands in the loss):
            what a prompt that says anything has to be below.
    """

    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    coefficients: list[tuple[int, float, float, float]] = field(default_factory=list)
    lists: int = 0
    without_llm: float | None = None

    @property
    def best(self) -> tuple[int, float]:
        """The step after which validation was best, and its loss."""
        return min(self.validation, key=lambda pair: (pair[1], pair[0]))


class MetaTrainer:
    """Trains a soft prompt.

    Attributes:
        curve: what happened so far.
        values: parameters by name, as the last step left them.
        best: the same after the best validation.

    Args:
        reader: reads episodes; its coefficients and weights are set by the trainer.
        sampler: training episodes.
        validation: fixed episodes that nothing is learned from.
        start: (k, dim) where the prompt starts.
        config: settings.
        directory: for checkpoint and curve; a run that finds them goes on exactly where it stopped.
        contexts: reads lists through `reader` under adapted contexts of their users, or None.
        leaves: parameters that are learned beside the prompt: those of the contexts.

    Raises:
        ConfigError: the checkpoint in `directory` was made with other settings.
    """

    def __init__(
        self,
        reader: TorchLoss,
        sampler: TaskSampler,
        validation: Sequence[Episode],
        start: torch.Tensor,
        config: MetaConfig,
        directory: Path,
        contexts: ContextReader | None = None,
        leaves: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.config = config
        self.curve = TrainingCurve()
        self.values = {
            name: leaf.detach().clone().requires_grad_() for name, leaf in {PROMPT: start, **(leaves or {})}.items()
        }
        self.best = {name: value.detach().clone() for name, value in self.values.items()}
        self._reader = reader
        self._loss: ListReader = reader if contexts is None else contexts
        self._recording = Recording(self._loss)
        self._sampler = sampler
        self._validation = validation
        self._directory = directory
        self._algorithm = algorithm_named(
            config.algorithm, self._recording, sampler, config.lists_per_step, config.inner_steps, config.inner_rate
        )
        self._optimizer = torch.optim.Adam(self.values.values(), lr=config.learning_rate)
        self._writer: Any = None
        self._resume()

    def run(self, progress: bool = False) -> torch.Tensor:
        """Trains to the last step, or until validation stops getting better.

        Returns:
            (k, dim) prompt of the best validation.

        Args:
            progress: show a progress bar on stderr.
        """
        config = self.config
        self._writer = _tensorboard(self._directory, len(self.curve.losses))
        bar = tqdm(
            total=config.steps, initial=len(self.curve.losses), unit="step", disable=not progress, desc="meta-train"
        )
        with bar, closing(self._writer) if self._writer else nullcontext(), steps():
            if not self.curve.validation:
                bar.set_postfix_str("reading lists for coefficients and validation")  # minutes without a step
                self._first_coefficients()
                self._validate()
            while (step := len(self.curve.losses)) < config.steps and not self._stalled():
                loss = self._step(step)
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}", valid=f"{self.curve.validation[-1][1]:.4f}")
                if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                    self._validate()
                ends = end_asked()
                if (step + 1) % config.checkpoint_every == 0 or ends:
                    self._save()
                if ends:
                    raise stopped(step + 1, config.steps)
            self._save()
        return self.best[PROMPT]

    def _step(self, step: int) -> float:
        config = self.config
        for value in self.values.values():
            value.grad = None
        loss = self._algorithm.accumulate(self.values, step)
        if not np.isfinite(loss):
            raise ModelError(f"training diverged at step {step} (loss {loss}): lower learning_rate")
        norm = float(torch.nn.utils.clip_grad_norm_(self.values.values(), config.clip))
        for group in self._optimizer.param_groups:
            group["lr"] = config.rate(step)
        self._optimizer.step()
        self.curve.losses.append(loss)
        self.curve.lists += config.lists_per_step
        if config.refit_every and (step + 1) % config.refit_every == 0 and self._recording.window:
            self._refit(step + 1)
        self._scalar("loss", loss, step)
        self._scalar("gradient_norm", norm, step)
        return loss

    def _first_coefficients(self) -> None:
        """Raw log-likelihoods beside log-odds: the untrained prompt is judged under coefficients that fit it."""
        if self.config.refit_every:
            count = max(self.config.first_fit_lists, self.config.lists_per_step)
            with torch.no_grad():
                for _ in self._recording.parts(self.values, self._sampler.batch(0, count)):
                    pass
            self._refit(0)

    def _refit(self, step: int) -> None:
        """Coefficients in closed form on the newest lists, near where they started: apart from the prompt."""
        a, b, c = self._recording.fit(self.config.coefficients, self.config.baseline)
        self._reader.coefficients = [a, b, c]
        self.curve.coefficients.append((step, a, b, c))

    def _validate(self) -> None:
        """Under coefficients of its own where they are fitted at all."""
        with torch.no_grad():
            parts = list(self._loss.parts(self.values, self._validation))
        if self.config.refit_every:
            total = float(cross_fitted_losses(parts, self.config.coefficients, self.config.baseline).sum())
        else:
            total = sum(part.loss.item() for part in parts)
        if self.curve.without_llm is None:
            self.curve.without_llm = self._without_llm(parts)
        step = len(self.curve.losses)
        self.curve.validation.append((step, total / len(self._validation)))
        self._scalar("validation_loss", total / len(self._validation), step)
        if self.curve.best[0] == step:
            self.best = {name: value.detach().clone() for name, value in self.values.items()}

    def _without_llm(self, parts: Sequence[Part]) -> float:
        silent = [
            list_losses(
                [torch.zeros_like(one) for one in part.components],
                part.episodes,
                self._reader.coefficients,
                self.config.baseline,
            ).sum()
            for part in parts
        ]
        return float(torch.stack(silent).sum()) / len(self._validation)

    def _stalled(self) -> bool:
        if not self.config.patience:
            return False
        best = [loss for _, loss in self.curve.validation].index(self.curve.best[1])
        return len(self.curve.validation) - 1 - best >= self.config.patience

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)

    def _save(self) -> None:
        state = {
            "config": self.config.model_dump_json(),
            "values": {name: value.detach() for name, value in self.values.items()},
            "best": self.best,
            "optimizer": self._optimizer.state_dict(),
            "window": self._recording.window,
            "coefficients": self._reader.coefficients,
            "curve": vars(self.curve),
        }
        with whole_file(self._directory / CHECKPOINT) as temporary:
            torch.save(state, temporary)
        write_json(self._directory / CURVE, vars(self.curve))

    def _resume(self) -> None:
        path = self._directory / CHECKPOINT
        if not path.exists():
            return
        kept = torch.load(path, weights_only=True, map_location="cpu")  # a run may go on elsewhere
        asked = {"relative": False, **json.loads(kept["config"])}  # there was nothing else before it was a setting
        try:
            same = MetaConfig.from_mapping(asked) == self.config
        except ConfigError as error:
            raise ConfigError(f"{path} is of settings that are none here ({error}); give another folder") from error
        if not same:
            raise ConfigError(
                f"{path} was made with other settings ({kept['config']}); give the same settings or another folder"
            )
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(kept["values"][name])
        self.best = {name: value.to(self.values[name].device) for name, value in kept["best"].items()}
        self._optimizer.load_state_dict(kept["optimizer"])
        self._recording.window = kept["window"]
        self._reader.coefficients = list(kept["coefficients"])
        self.curve = TrainingCurve(**kept["curve"])
        logger.info("goes on at step %d of %d", len(self.curve.losses), self.config.steps)


def _tensorboard(directory: Path, step: int) -> Any:
    """A writer of scalars from `step` on, where TensorBoard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory / "tensorboard"), purge_step=step)
