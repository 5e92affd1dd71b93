"""Self-supervised adaptation of the base model: next-title language modelling on users' histories (LoRA).

It turns a general language model into a sequence model of catalogues; prompts are learned on top of it.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Data
from tqdm import tqdm

from reranker.errors import ConfigError
from reranker.training.lora.histories import SequenceSampler, TrainingSequence
from reranker.utils.atomic_io import whole_file, write_json
from reranker.utils.settings import SettingsModel
from reranker.utils.stopping import end_asked, steps, stopped

logger = logging.getLogger(__name__)

_CHECKPOINT, _CURVE = "checkpoint.pt", "curve.json"
_CPU_BATCH_TOKENS = 1024  # activations stay near the cache
_CUDA_BATCH_TOKENS = 32768


class BaseTuningConfig(SettingsModel):
    """Settings of `tune_base`. Unknown keys are refused.

    Attributes:
        rank: of the LoRA; 8 makes 2.4 M parameters (4.9 MB in bfloat16) for smollm2-135m.
        alpha: LoRA scale: the update counts alpha / rank.
        learning_rate: peak of AdamW, after a linear warm-up; falls to a tenth along a cosine.
        warmup: steps.
        steps: optimizer steps.
        tokens_per_step: tokens of the sequences of a step, about.
        clip: bound on the gradient's norm.
        temperature: domains are drawn ∝ size^temperature.
        category_dropout: share of items shown without their category.
        checkpoint_every: steps.
        seed: of adapters and draws.
    """

    REFUSAL: ClassVar[str] = "train base settings: {problems}"

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=20, ge=0)
    steps: int = Field(default=300, ge=1)
    tokens_per_step: int = Field(default=3072, ge=64)
    clip: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=0.5, ge=0, le=1)
    category_dropout: float = Field(default=0.5, ge=0, le=1)
    checkpoint_every: int = Field(default=25, ge=1)
    seed: int = Field(default=0, ge=0)

    def rate(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


@dataclass(kw_only=True)
class Curve:
    """Mean loss a scored token of each step, in nats, and tokens read so far."""

    losses: list[float] = field(default_factory=list)
    tokens: int = 0


class BaseTuner:
    """Trains LoRA adapters on all linear layers of a causal LM.

    Adapters compute in the model's dtype; float32 copies of them are what the optimizer moves, for bfloat16 would
    swallow small steps.

    Args:
        lm: a loaded transformers causal LM, frozen.
        sampler: where the text comes from.
        config: settings.
        directory: for the checkpoint; a run that finds one goes on exactly where it stopped.
        workers: processes that write sequences ahead, for a device that reads faster than one process writes; what they
            write is the same.
        reads: what the base and the sequences are, in words or hashes; a checkpoint of others is refused.

    Raises:
        ConfigError: the checkpoint in `directory` was made with other settings, of another base or other sequences.
    """

    def __init__(
        self,
        lm: Any,
        sampler: SequenceSampler,
        config: BaseTuningConfig,
        directory: Path,
        workers: int = 0,
        reads: str = "",
    ) -> None:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(config.seed)
        self.config = config
        self.curve = Curve()
        self._sampler = sampler
        self._workers = workers
        self._directory = directory
        self._reads = reads
        self._device = lm.device
        self._trunk, self._head, self._embeddings = lm.base_model, lm.get_output_embeddings(), lm.get_input_embeddings()
        settings = LoraConfig(
            r=config.rank, lora_alpha=config.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        self._model: Any = get_peft_model(lm, settings, autocast_adapter_dtype=False)
        self._adapters = [one for one in self._model.parameters() if one.requires_grad]
        self._masters = [one.detach().float().clone().requires_grad_() for one in self._adapters]
        self._optimizer = torch.optim.AdamW(self._masters, lr=config.learning_rate, weight_decay=0.0)
        self._resume()

    def run(self, progress: bool = False) -> Any:
        """Trains to the last step and returns the PEFT model."""
        bar = tqdm(
            total=self.config.steps, initial=len(self.curve.losses), unit="step", disable=not progress, desc="tune-base"
        )
        first = len(self.curve.losses)
        with bar, steps():
            for step, batch in enumerate(self._batches(first), first):
                loss = self._step(step, batch)
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}")
                last, ends = step + 1 == self.config.steps, end_asked()
                if (step + 1) % self.config.checkpoint_every == 0 or last or ends:
                    self._save()
                if ends and not last:
                    raise stopped(step + 1, self.config.steps)
        return self._model

    def _batches(self, first: int) -> Iterator[list[TrainingSequence]]:
        """Those of the steps from `first` on."""
        batches, steps = _Batches(self._sampler, self.config.tokens_per_step), range(first, self.config.steps)
        yield from DataLoader(batches, batch_size=None, sampler=steps, collate_fn=list, num_workers=self._workers)

    def _step(self, step: int, batch: Sequence[TrainingSequence]) -> float:
        scored = sum(len(one) - one.scored_from for one in batch)
        total = 0.0
        for part in _parts(batch, _CPU_BATCH_TOKENS if self._device.type == "cpu" else _CUDA_BATCH_TOKENS):
            loss = self._loss(part) / scored
            torch.autograd.backward(loss)
            total += loss.item()
        for master, adapter in zip(self._masters, self._adapters, strict=True):
            master.grad = adapter.grad.float() if adapter.grad is not None else None
            adapter.grad = None
        torch.nn.utils.clip_grad_norm_(self._masters, self.config.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.rate(step)
        self._optimizer.step()
        self._publish()
        self.curve.losses.append(total)
        self.curve.tokens += sum(map(len, batch))
        return total

    def _loss(self, part: Sequence[TrainingSequence]) -> torch.Tensor:
        """Σ −log p over the scored tokens, in nats."""
        longest = max(map(len, part))
        ids = np.zeros((len(part), longest), dtype=np.int64)
        scored = np.zeros((len(part), longest), dtype=np.bool_)
        for row, one in enumerate(part):
            ids[row, : len(one)] = one.tokens.token_ids
            scored[row, one.scored_from : len(one)] = True
        tokens = torch.from_numpy(ids).to(self._device)
        inputs = self._embeddings(tokens).clone()
        for row, one in enumerate(part):
            if not one.tokens.is_plain:
                inputs[row, torch.from_numpy(one.tokens.vector_positions)] = torch.from_numpy(one.tokens.vectors).to(
                    inputs
                )
        # Padding stands at the end, where causal attention hides it.
        states = self._trunk(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, :-1]
        wanted = torch.from_numpy(scored[:, 1:]).to(self._device)
        logits = self._head(states[wanted]).float()
        return functional.cross_entropy(logits, tokens[:, 1:][wanted], reduction="sum")

    def _publish(self) -> None:
        with torch.no_grad():
            for master, adapter in zip(self._masters, self._adapters, strict=True):
                adapter.copy_(master)

    def _save(self) -> None:
        state = {
            "config": self.config.model_dump_json(),
            "reads": self._reads,
            "masters": [one.detach() for one in self._masters],
            "optimizer": self._optimizer.state_dict(),
            "losses": self.curve.losses,
            "tokens": self.curve.tokens,
        }
        with whole_file(self._directory / _CHECKPOINT) as temporary:
            torch.save(state, temporary)
        write_json(self._directory / _CURVE, vars(self.curve))

    def _resume(self) -> None:
        path = self._directory / _CHECKPOINT
        if not path.exists():
            return
        kept = torch.load(path, weights_only=True, map_location=self._device)
        if kept["config"] != self.config.model_dump_json():
            raise ConfigError(
                f"{path} was made with other settings ({kept['config']}); give the same settings or another folder"
            )
        if kept.get("reads") != self._reads:
            raise ConfigError(
                f"{path} was made of other data or another base ({kept.get('reads')}), these are {self._reads}; give "
                "the same or another folder"
            )
        with torch.no_grad():
            for master, value in zip(self._masters, kept["masters"], strict=True):
                master.copy_(value)
        self._optimizer.load_state_dict(kept["optimizer"])
        self._publish()
        self.curve = Curve(losses=list(kept["losses"]), tokens=kept["tokens"])
        logger.info("goes on at step %d of %d", len(self.curve.losses), self.config.steps)


class _Batches(Data[list[TrainingSequence]]):
    """Step -> its sequences."""

    def __init__(self, sampler: SequenceSampler, tokens: int) -> None:
        self._sampler, self._tokens = sampler, tokens

    def __getitem__(self, step: int) -> list[TrainingSequence]:
        return self._sampler.batch(step, self._tokens)


def _parts(batch: Sequence[TrainingSequence], tokens: int) -> Iterator[list[TrainingSequence]]:
    """Sequences of like length together, at most `tokens` with padding; a longer one goes alone."""
    part: list[TrainingSequence] = []
    for one in sorted(batch, key=len, reverse=True):
        if part and (len(part) + 1) * len(part[0]) > tokens:
            yield part
            part = []
        part.append(one)
    if part:
        yield part
