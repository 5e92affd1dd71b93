"""Adapting a trained prompt to a domain: a few gradient steps on lists of a few of its users, kept only if better."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from candidate_gen import ALSGenerator
from reranker.data.dataset import Dataset
from reranker.errors import ConfigError, DataError
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.pipeline.reranker import Reranker
from reranker.protocols import CandidateGenerator
from reranker.soft_tokens import CONTEXT_FILE, ContextMap
from reranker.soft_tokens.peft_format import save_peft
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.training.algorithms import PROMPT, adapt
from reranker.training.cavia import ContextReader, context_leaves
from reranker.training.inner_loop import InnerLoop
from reranker.training.scorer_weights import ListReader, Recording, cross_fitted_losses
from reranker.training.tasks import Episode, TaskDomain, TaskSampler
from reranker.training.torch_loss import TorchLoss, Values, tokens_at_once
from reranker.types import UserId
from reranker.utils.statistics import Interval, mean_interval

_CONFIDENCE = 0.68  # a gain of one standard error


@dataclass(frozen=True, kw_only=True)
class AdaptationSettings:
    """How a prompt is adapted to a domain.

    Attributes:
        inner_loop: number and size of the gradient steps: `InnerLoop.beside` has those that a prompt was trained for.
        users: whose lists are learned from, at most half of those there are.
        judged_users: others, whose newest lists decide whether the adapted prompt is kept, at most.
        lists_per_step: lists read in a step.
        negatives: candidates beside the chosen ones, from the same list.
        rounds: choices replayed a user to learn from.
        hold_out: newest interactions of each user that adapting must not see: on these alone, or the newest of them,
            `Reranker.fit` learns afterwards (`windows`).
        seed: of every draw.

    Raises:
        ConfigError: an impossible value.
    """

    inner_loop: InnerLoop = field(default_factory=InnerLoop)
    users: int = 100
    judged_users: int = 200
    lists_per_step: int = 64
    negatives: int = 15
    rounds: int = 3
    hold_out: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"users": 1, "judged_users": 2, "lists_per_step": 1, "negatives": 1, "rounds": 1, "hold_out": 0}
        wrong = [f"{name} is {getattr(self, name)}" for name, low in least.items() if getattr(self, name) < low]
        if wrong:
            raise ConfigError(f"cannot adapt a prompt: {', '.join(wrong)}; each must be at least {least}")


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptedDomain:
    """What adapting did.

    Attributes:
        prompt: of the domain: the adapted one, or the one it started from.
        better: whether that is the adapted one.
        gain: how much the loss of the held-out users' lists fell, in nats a list, with its 68 % interval.
        loss: of those lists under the prompt it started from.
        inner_loop: the gradient steps that were taken.
        users: whose lists were learned from.
        lists: read forward and backward.
        contexts: the users' context map that the lists were read under, if any.
    """

    prompt: SoftPrompt
    better: bool
    gain: Interval
    loss: float
    inner_loop: InnerLoop
    users: int
    lists: int
    contexts: ContextMap | None

    def summary(self) -> str:
        """One sentence."""
        kept = "the adapted prompt is kept" if self.better else "NOT better: the prompt it started from is kept"
        loop = self.inner_loop
        return (
            f"{loop.steps} steps of size {loop.rate:g} on lists of {self.users} users ({self.lists} read): the loss of "
            f"{self.gain.n} held-out users' lists went {self.loss:.4f} -> {self.loss - self.gain.mean:.4f} nats a "
            f"list, gain {self.gain} (68 %); {kept}"
        )

    def save(self, directory: Path) -> None:
        """Writes the prompt in PEFT format, with its inner loop and context map beside it, as `train prompt` does.

        Raises:
            PromptError: `directory` holds something else than a prompt.
            OSError: the disk refused.
        """
        save_peft(self.prompt, directory)
        self.inner_loop.save(directory)
        if self.contexts is not None:
            self.contexts.save(directory / CONTEXT_FILE)


def adapt_domain(
    reranker: Reranker,
    data: Dataset,
    generator: CandidateGenerator | None = None,
    *,
    settings: AdaptationSettings | None = None,
    progress: bool = False,
) -> AdaptedDomain:
    """Adapts the prompt that `reranker` would read this domain with; call it before `Reranker.fit`.

    A better prompt joins the reranker's bank under the domain's name, so that `fit` uses it and `save` keeps it; and
    `windows` of its config goes down to what the prompt has not seen.
    Lists are replayed as in `train prompt`, with a candidate generator that has not seen what was chosen; the prompts
    are compared each under coefficients fitted to it, on the other half of the lists.

    Args:
        reranker: from `Reranker.from_pretrained`; its `n_candidates` and `min_history` shape the lists.
        data: interactions and items of the domain.
        generator: the kind of stage that proposes lists, ALS by default; clones of it are fitted.
        settings: of the adaptation.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: the reranker reads no soft prompt, or by another scorer than likelihood, or torch is not
            installed.
        DataError: too few users have lists with a chosen item.
        PromptError: prompt and model do not belong together.
    """
    settings = settings or AdaptationSettings()
    if reranker.config.soft_tokens == 0:
        raise ConfigError("soft_tokens is 0: there is no prompt to adapt")
    if reranker.config.scorer != "likelihood":
        raise ConfigError(
            f"prompts are adapted by what the likelihood scorer says, this Reranker has {reranker.config.scorer!r}: "
            "make it with scorer='likelihood'"
        )
    reader = reranker.llm_scorer.for_domain(data.domain)
    start = reader.prompt()
    assert start is not None
    domain = TaskDomain.build(
        data,
        generator or ALSGenerator(),
        reader.renderer,
        n_candidates=reranker.config.n_candidates,
        rounds=settings.rounds,
        hold_out=settings.hold_out,
        min_history=reranker.config.min_history,
        seed=settings.seed,
    )
    domain = domain.calibrated_by(reranker.config.calibration_histories, settings.seed)
    support, judged = _split(domain, settings)
    loop = settings.inner_loop
    lists = _Lists(reader, domain, settings)
    values = lists.values(start)
    sampler = TaskSampler([support], negatives=settings.negatives, seed=settings.seed)
    batches = [sampler.batch(step, settings.lists_per_step) for step in range(loop.steps)]
    lists.fit_coefficients(values, batches[0])
    adapted = values[PROMPT]
    for batch in tqdm(batches, unit="step", desc="adapt-domain", disable=not progress):
        adapted = adapt(lists.loss, {**values, PROMPT: adapted}, batch, 1, loop.rate)
    before = lists.losses_by_user(values, judged)
    after = lists.losses_by_user({**values, PROMPT: adapted}, judged)
    gain = mean_interval(before - after, confidence=_CONFIDENCE, seed=settings.seed)
    better = gain.low > 0
    if better:
        start = SoftPrompt(
            vectors=adapted.float().cpu().numpy(),
            name=data.domain,
            base_model_id=start.base_model_id,
            base_model_sha256=start.base_model_sha256,
        )
        reranker.llm_scorer.prompts.add_domain(data.domain, start)
        unseen = min(reranker.config.windows, max(1, settings.hold_out))
        reranker.config = reranker.config.model_copy(update={"windows": unseen})
    return AdaptedDomain(
        prompt=start,
        better=better,
        gain=gain,
        loss=float(before.mean()),
        inner_loop=loop,
        users=len({one.user_id for one in support.episodes}),
        lists=loop.steps * settings.lists_per_step,
        contexts=reader.contexts,
    )


class _Lists:
    """Reads lists as the reader serves them: under the users' tokens where there is a context map."""

    def __init__(self, reader: LLMScorer, domain: TaskDomain, settings: AdaptationSettings) -> None:
        lm = reader.packed_lm()
        self._reader, self._device, self._negatives = reader, lm.device, settings.negatives
        self._coefficients = [float(one) for one in reader.scorer.default_coefficients]
        renderers, most = {domain.name: domain.renderer}, tokens_at_once(lm.device)
        self._episodes = TorchLoss(lm, renderers, self._coefficients, max_tokens=most)
        self.loss: ListReader = self._episodes
        if reader.contexts is not None:
            self.loss = ContextReader(self._episodes, lm, renderers, steps=0, max_tokens=most)

    def values(self, prompt: SoftPrompt) -> dict[str, torch.Tensor]:
        values = {PROMPT: torch.from_numpy(prompt.vectors.copy()).to(self._device)}
        if self._reader.contexts is not None:
            values |= context_leaves(self._reader.contexts, self._device)
        return values

    def fit_coefficients(self, values: Values, episodes: Sequence[Episode]) -> None:
        recording = Recording(self.loss)
        with torch.no_grad():
            for _ in recording.parts(values, episodes):
                pass
        self._episodes.coefficients = list(recording.fit(self._coefficients, baseline=True))

    def losses_by_user(self, values: Values, domain: TaskDomain) -> NDArray[np.float64]:
        """(users,) loss of each user's newest list, in nats; users in the order of the domain."""
        newest = list({one.user_id: one for one in reversed(domain.episodes)}.values())  # rounds go back in time
        sampler = TaskSampler([replace(domain, episodes=newest)], negatives=self._negatives)
        with torch.no_grad():
            parts = list(self.loss.parts(values, list(sampler.fixed(len(newest)))))
        users = [one.user_id for part in parts for one in part.episodes]
        read = cross_fitted_losses(parts, self._coefficients, baseline=True)
        losses: dict[UserId, float] = dict(zip(users, read.tolist(), strict=True))
        return np.array([losses[one.user_id] for one in newest])


def _split(domain: TaskDomain, settings: AdaptationSettings) -> tuple[TaskDomain, TaskDomain]:
    """Episodes to learn from and episodes to be judged on, by different users."""
    there = len({one.user_id for one in domain.episodes})
    wanted = min(settings.users, there // 2)
    if there - wanted < 2 or not wanted:
        raise DataError(
            f"domain {domain.name!r}: {there} users have a list with a chosen item in it; adapting needs one to learn "
            "from and two to be judged on. Give more interactions, lower min_history or raise n_candidates"
        )
    rest, support = domain.split(wanted / there, settings.seed)
    _, judged = rest.split(min(settings.judged_users, there - wanted) / (there - wanted), settings.seed + 1)
    return support, judged
