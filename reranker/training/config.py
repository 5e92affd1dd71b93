"""Settings of `reranker train prompt`."""

import math
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reranker.config import RerankerConfig
from reranker.utils.settings import SettingsModel

Algorithm = Literal["pooled", "cavia", "fomaml"]

_ITEM_TOKENS = "items have no soft tokens of their own"
_HISTORIES = "histories are read as they are"
_TEXTS = "a prompt learns from lists alone"
_LEFT = {
    "algorithm: reptile": "use 'pooled', or 'fomaml' for a prompt that a few steps adapt to a domain",
    "algorithm: maml": "use 'fomaml', the same by first-order gradients",
    "algorithm: es": "use 'pooled'",
    "objective": "lists are learned by the conditional logit",
    "meta_sgd": "inner_rate is the size of every inner step",
    "subspace": "it was of algorithm 'es'",
    "sigma": "it was of algorithm 'es'",
    "population": "it was of algorithm 'es'",
    "item_tokens": _ITEM_TOKENS,
    "item_token_hidden": _ITEM_TOKENS,
    "item_vectors": _ITEM_TOKENS,
    "popular_share": "negatives come from the list",
    "history_dropout": _HISTORIES,
    "category_dropout": _HISTORIES,
    "order_jitter": _HISTORIES,
    "title_weight": _TEXTS,
    "category_weight": _TEXTS,
    "pretrain_steps": _TEXTS,
    "keep": "the prompt of the best validation is kept",
}
"""What was an option and is none: why its absence costs nothing is in research/2026-11-29-what-left-the-product.md."""


class DomainSource(BaseModel):
    """Where a domain's tables are.

    Attributes:
        name: of the domain; picks the templates.
        data: folder with interactions and items, or the name of a known data set.
        family: template family; by the domain's name without it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    data: str
    family: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_what_left(cls, values: Any) -> Any:
        return _without_what_left(values)


class MetaConfig(SettingsModel):
    """Settings of a training run. Unknown keys are refused.

    Attributes:
        domains: to learn from, each under a name of its own.
        held_out: domains that are only validated on; without any, `validation_share` of each domain's users are.
        reranker: base model, prompt layout, length of the soft prompt: what will be served.
        algorithm: "pooled" learns one prompt for all lists; "cavia" learns, beside it, contexts that a few steps adapt
            to a user; "fomaml" learns a prompt that a few steps adapt to a domain.
        start: folder of a soft prompt to start from; the written instruction's embeddings without it.
        relative: what is learned is added to the written instruction of each domain, so that every domain starts from
            its own; False learns one prompt for all, which starts from the first domain's. As `start` is, by default,
            and True without one.
        steps: optimizer steps.
        lists_per_step: lists read forward and backward in a step, whatever the algorithm (equal compute).
        learning_rate: peak of Adam, after the warm-up; falls to a tenth along a cosine.
        warmup: steps.
        inner_steps: gradient steps on the support lists of a task, or on a user's history.
        inner_rate: step size of those on a prompt, in units of its root mean square.
        context_dim: floats a user, at most 64.
        context_tokens: soft tokens they become.
        negatives: candidates beside the chosen ones, from the same list.
        n_candidates: length of the first-stage lists.
        rounds: choices replayed a user.
        hold_out: newest interactions of each user that training must not see.
        min_history: interactions a user has before the choice, at least.
        temperature: domains are drawn ∝ size^temperature.
        baseline: the log-odds of the interaction features stand inside the loss.
        coefficients: of sum, mean and gain in the utility.
        refit_every: steps after which the coefficients are fitted anew on the newest lists; 0 keeps them.
        first_fit_lists: lists that they are fitted on before the first step, unless a step reads more.
        clip: bound on the gradient's norm, a list.
        validation_share: of users, where no domain is held out.
        validation_lists: lists a domain in one validation.
        validate_every: steps.
        patience: validations without a better one before training stops; 0 never stops.
        checkpoint_every: steps.
        seed: of every draw.
        dtype: the model computes in: "bfloat16", "float32", or "auto", as `RerankerConfig` has it.
        device: "cpu", "cuda", ...; "auto" takes CUDA when there is one.
    """

    REFUSAL: ClassVar[str] = "train prompt settings: {problems}"

    domains: tuple[DomainSource, ...] = Field(min_length=1)
    held_out: tuple[DomainSource, ...] = ()
    reranker: RerankerConfig = RerankerConfig()
    algorithm: Algorithm = "pooled"
    start: Path | None = None
    relative: bool | None = None
    steps: int = Field(default=200, ge=1)
    lists_per_step: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=0.002, gt=0)
    warmup: int = Field(default=10, ge=0)
    inner_steps: int = Field(default=3, ge=1)
    inner_rate: float = Field(default=0.05, gt=0)
    context_dim: int = Field(default=32, ge=1, le=64)
    context_tokens: int = Field(default=4, ge=1)
    negatives: int = Field(default=15, ge=1)
    n_candidates: int = Field(default=50, ge=2)
    rounds: int = Field(default=3, ge=1)
    hold_out: int = Field(default=2, ge=0)
    min_history: int = Field(default=3, ge=1)
    temperature: float = Field(default=0.5, ge=0, le=1)
    baseline: bool = True
    coefficients: tuple[float, float, float] = (0.0, 0.5, 1.0)
    refit_every: int = Field(default=10, ge=0)
    first_fit_lists: int = Field(default=256, ge=1)
    clip: float = Field(default=1.0, gt=0)
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    validation_lists: int = Field(default=200, ge=1)
    validate_every: int = Field(default=20, ge=1)
    patience: int = Field(default=5, ge=0)
    checkpoint_every: int = Field(default=5, ge=1)
    seed: int = Field(default=0, ge=0)
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"

    @model_validator(mode="before")
    @classmethod
    def _names_what_left(cls, values: Any) -> Any:
        return _without_what_left(values)

    @model_validator(mode="after")
    def _consistent(self) -> "MetaConfig":
        names = [one.name for one in (*self.domains, *self.held_out)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"domains {', '.join(twice)} stand there twice: give each a name of its own, and family: the templates"
            )
        if not self.validation_share and not self.held_out:
            raise ValueError("validation_share is 0 and held_out is empty: no users are left to validate on")
        if self.reranker.soft_tokens == 0:
            raise ValueError("reranker.soft_tokens is 0: there is no prompt to train")
        if self.reranker.scorer != "likelihood":
            raise ValueError(f"reranker.scorer is {self.reranker.scorer!r}; only 'likelihood' can be trained")
        if self.algorithm == "fomaml" and self.lists_per_step < 2 * (self.inner_steps + 1):
            raise ValueError("lists_per_step is too small for inner_steps + 1 readings of two lists")
        return self

    def rate(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def _without_what_left(values: Any) -> Any:
    """The values, unless they name an option that there is no more: a ValueError then, with what to do."""
    if isinstance(values, dict):
        named = [name for name in values if name in _LEFT]
        if (algorithm := f"algorithm: {values.get('algorithm')}") in _LEFT:
            named.append(algorithm)
        if named:
            raise ValueError("; ".join(f"{name} has left the product: {_LEFT[name]}" for name in named))
    return values
