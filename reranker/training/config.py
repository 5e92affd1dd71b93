"""Settings of `reranker train prompt`."""

import math
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reranker.config import RerankerConfig
from reranker.utils.settings import SettingsModel

Algorithm = Literal["pooled", "cavia", "reptile", "fomaml", "maml", "es"]
ObjectiveName = Literal["conditional_logit", "bce", "lambdarank", "plackett_luce"]


class DomainSource(BaseModel):
    """Where a domain's tables are.

    Attributes:
        name: of the domain; picks the templates.
        data: folder with interactions and items, or the name of a known data set.
        family: template family; by the domain's name without it.
        item_vectors: table of `item_id` and `vector` (or numeric columns) that item tokens are projected from; the
            candidate generator's item factors without it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    data: str
    family: str | None = None
    item_vectors: Path | None = None


class MetaConfig(SettingsModel):
    """Settings of a training run. Unknown keys are refused.

    Attributes:
        domains: to learn from, each under a name of its own.
        held_out: domains that are only validated on; without any, `validation_share` of each domain's users are.
        reranker: base model, prompt layout, length of the soft prompt: what will be served.
        algorithm: "pooled" learns one prompt for all lists; "cavia" learns, beside it, contexts that a few steps adapt
            to a user; "es" evolves one prompt for all lists without gradients, through the engine of `reranker`; the
            others learn a prompt that a few steps adapt to a domain.
        objective: of the utilities of a list.
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
        meta_sgd: learn a step size for each coordinate of a prompt; contexts always have theirs.
        subspace: floats that "es" searches.
        sigma: spread of its first members, in units of the prompt's root mean square.
        population: its members a step, which share `lists_per_step`; 4 + 3 ln(subspace) without it.
        context_dim: floats a user, at most 64.
        context_tokens: soft tokens they become.
        item_tokens: "history" gives items of histories a soft token before their titles, projected from a vector of the
            item; "both" gives candidates theirs, too. Then only the projector is learned, one a domain, and the prompt
            stays as it started. "none": no such tokens.
        item_token_hidden: width of the projector's hidden layer.
        negatives: candidates beside the chosen ones, from the same list.
        popular_share: share of them drawn by popularity from the catalogue instead.
        n_candidates: length of the first-stage lists.
        rounds: choices replayed a user.
        hold_out: newest interactions of each user that training must not see.
        min_history: interactions a user has before the choice, at least.
        temperature: domains are drawn ∝ size^temperature.
        history_dropout, category_dropout, order_jitter: augmentation of histories.
        evidence: the interaction features stands inside the loss.
        coefficients: of sum, mean and gain in the utility.
        refit_every: steps after which the coefficients are fitted anew on the newest lists; 0 keeps them.
        first_fit_lists: lists that they are fitted on before the first step, unless a step reads more.
        title_weight: weight of language modelling of the chosen titles at the start; falls linearly to 0.
        category_weight: the same of the chosen titles from their categories alone; while item text is learned, of all
            candidates' titles.
        pretrain_steps: first steps learn item text alone: titles without a history.
        clip: bound on the gradient's norm, a list.
        validation_share: of users, where no domain is held out.
        validation_lists: lists a domain in one validation.
        validate_every: steps.
        patience: validations without a better one before training stops; 0 never stops.
        keep: the prompt of the "best" validation, or of the "last" step.
        checkpoint_every: steps.
        seed: of every draw.
        dtype: the model computes in: "bfloat16", "float32", or "auto", as `RerankerConfig` has it.
        device: "cpu", "cuda", ...; "auto" takes CUDA when there is one. Engines other than torch, which "es" may read
            through, choose their own.
    """

    REFUSAL: ClassVar[str] = "train prompt settings: {problems}"

    domains: tuple[DomainSource, ...] = Field(min_length=1)
    held_out: tuple[DomainSource, ...] = ()
    reranker: RerankerConfig = RerankerConfig()
    algorithm: Algorithm = "pooled"
    objective: ObjectiveName = "conditional_logit"
    start: Path | None = None
    relative: bool | None = None
    steps: int = Field(default=200, ge=1)
    lists_per_step: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=0.002, gt=0)
    warmup: int = Field(default=10, ge=0)
    inner_steps: int = Field(default=3, ge=1)
    inner_rate: float = Field(default=0.05, gt=0)
    meta_sgd: bool = False
    subspace: int = Field(default=16, ge=2)
    sigma: float = Field(default=0.1, gt=0)
    population: int | None = Field(default=None, ge=4)
    context_dim: int = Field(default=32, ge=1, le=64)
    context_tokens: int = Field(default=4, ge=1)
    item_tokens: Literal["none", "history", "both"] = "none"
    item_token_hidden: int = Field(default=64, ge=1)
    negatives: int = Field(default=15, ge=1)
    popular_share: float = Field(default=0.0, ge=0, le=1)
    n_candidates: int = Field(default=50, ge=2)
    rounds: int = Field(default=3, ge=1)
    hold_out: int = Field(default=2, ge=0)
    min_history: int = Field(default=3, ge=1)
    temperature: float = Field(default=0.5, ge=0, le=1)
    history_dropout: float = Field(default=0.0, ge=0, le=1)
    category_dropout: float = Field(default=0.0, ge=0, le=1)
    order_jitter: float = Field(default=0.0, ge=0, le=1)
    evidence: bool = True
    coefficients: tuple[float, float, float] = (0.0, 0.5, 1.0)
    refit_every: int = Field(default=10, ge=0)
    first_fit_lists: int = Field(default=256, ge=1)
    title_weight: float = Field(default=0.0, ge=0)
    category_weight: float = Field(default=0.0, ge=0)
    pretrain_steps: int = Field(default=0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    validation_lists: int = Field(default=200, ge=1)
    validate_every: int = Field(default=20, ge=1)
    patience: int = Field(default=5, ge=0)
    keep: Literal["best", "last"] = "best"
    checkpoint_every: int = Field(default=5, ge=1)
    seed: int = Field(default=0, ge=0)
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"

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
        if self.reranker.scoring != "likelihood":
            raise ValueError(f"reranker.scoring is {self.reranker.scoring!r}; only 'likelihood' can be trained")
        if self.adapts_prompts and self.lists_per_step < 2 * (self.inner_steps + 1):
            raise ValueError("lists_per_step is too small for inner_steps + 1 readings of two lists")
        if self.item_tokens != "none":
            self._learns_item_tokens()
        elif any(one.item_vectors for one in (*self.domains, *self.held_out)):
            raise ValueError("item_vectors are given, but item_tokens is 'none': set it to 'history' or 'both'")
        if self.meta_sgd and self.algorithm not in ("fomaml", "maml"):
            raise ValueError(f"meta_sgd: {self.algorithm} takes no inner steps on a prompt whose size it could learn")
        if self.algorithm == "es" and self.pretrain_steps:
            raise ValueError("pretrain_steps needs gradients, which es does without")
        return self

    def _learns_item_tokens(self) -> None:
        if self.held_out:
            raise ValueError("a projector of item tokens is of its domain alone: leave held_out empty with item_tokens")
        if self.algorithm not in ("pooled", "cavia") or (self.algorithm == "cavia" and self.start is None):
            raise ValueError("item_tokens are learned by algorithm 'pooled', or 'cavia' with a trained start")
        if self.pretrain_steps:
            raise ValueError("pretrain_steps learn the prompt, which item_tokens leave as it is: set it to 0")

    @property
    def adapts_prompts(self) -> bool:
        """Whether the algorithm has an inner loop over prompts, so that step sizes belong to what it learns."""
        return self.algorithm in ("reptile", "fomaml", "maml")

    def rate(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))

    def self_supervision(self, step: int) -> tuple[float, float]:
        """Weights of titles after the history and of titles from their category, at a 0-based step."""
        left = 1 - step / self.steps
        return self.title_weight * left, self.category_weight * left
