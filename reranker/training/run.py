"""From a configuration to a trained soft prompt on disk."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from candidate_gen import ALSGenerator
from reranker.data.builtin import load_dataset
from reranker.errors import ConfigError
from reranker.prompting import PromptRenderer, family_for_domain
from reranker.soft_tokens import CONTEXT_FILE, ContextMap, ItemTokens, VectorTable, save_item_tokens
from reranker.soft_tokens.checkpoint import folder_of
from reranker.soft_tokens.peft_format import load_peft, save_peft
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.training.algorithms import PROMPT, RATE
from reranker.training.backends import EngineSide, ModelSide, TorchSide
from reranker.training.cavia import ContextReader, context_leaves, context_map
from reranker.training.config import DomainSource, MetaConfig
from reranker.training.item_projection import projector_leaves, trained_item_tokens
from reranker.training.objectives import objective_named
from reranker.training.step_sizes import STEP_SIZES_FILE, StepSizes
from reranker.training.tasks import Augmentation, TaskDomain, TaskSampler
from reranker.training.torch_loss import Shifts, TorchLoss, tokens_at_once
from reranker.training.trainer import MetaTrainer, TrainingCurve
from reranker.types import ModelInfo
from reranker.utils.atomic_io import write_json

# Hurts least: mean log p of titles -5.63 behind it, -6.37 behind a newline, -7.11 behind the mean vector; -5.22 bare
_NEUTRAL = " "


@dataclass(frozen=True, kw_only=True)
class TrainedPrompt:
    """What `meta_train` wrote.

    Attributes:
        prompt: folder of the soft prompt in PEFT's format; `cavia` puts the users' `context.safetensors` beside it,
            item tokens come to lie in `item_tokens/`, and `reptile`, `fomaml` and `maml` put the
            `step_sizes.safetensors` there that adapt it to a domain.
        curve: losses and validations.
    """

    prompt: Path
    curve: TrainingCurve


Replayed = dict[DomainSource, TaskDomain]
"""Domains whose lists were made already: making them takes longer than a short training."""


def meta_train(
    config: MetaConfig,
    out: Path,
    progress: bool = False,
    watch: Callable[[int, float], None] | None = None,
    replayed: Replayed | None = None,
) -> TrainedPrompt:
    """Trains a soft prompt and writes it to `out/prompt`, with `out/curve.json` and `out/curve.png`.

    Args:
        config: settings.
        out: folder; a run that it holds goes on.
        progress: show a progress bar on stderr.
        watch: called with step and loss of every validation, as `MetaTrainer.run` does.
        replayed: kept and filled, so that runs whose settings make the same lists share them.

    Raises:
        DataError: a domain without lists to learn from.
        ConfigError: `out` holds a run with other settings.
        PromptError: `config.start` holds no prompt for this model.
        EngineError: `es` is asked to learn through an engine that takes no soft prompts.
    """
    with closing(EngineSide(config) if config.algorithm == "es" else TorchSide(config)) as side:
        lists: Replayed = {} if replayed is None else replayed
        learned_from = [_domain(one, config, side, lists) for one in config.domains]
        held_out = [_domain(one, config, side, lists) for one in config.held_out]
        return _train(side, learned_from, held_out, config, out, progress, watch)


def _train(
    side: ModelSide,
    domains: Sequence[TaskDomain],
    held_out: Sequence[TaskDomain],
    config: MetaConfig,
    out: Path,
    progress: bool,
    watch: Callable[[int, float], None] | None,
) -> TrainedPrompt:
    trained, validated = domains, held_out
    if not held_out:
        parts = [one.split(config.validation_share, config.seed) for one in domains]
        trained, validated = [one for one, _ in parts], [one for _, one in parts]
    sampler = TaskSampler(
        trained,
        negatives=config.negatives,
        popular_share=config.popular_share,
        temperature=config.temperature,
        augmentation=Augmentation(
            history_dropout=config.history_dropout,
            category_dropout=config.category_dropout,
            order_jitter=config.order_jitter,
        ),
        seed=config.seed,
    )
    validation = list(TaskSampler(validated, negatives=config.negatives).fixed(config.validation_lists))
    renderers = {one.name: one.renderer for one in [*trained, *validated]}
    draws = torch.Generator()
    tokens = {} if config.item_tokens == "none" else _start_item_tokens(config, trained, side)
    start = _Start.of(config, side, renderers)
    reader = side.reader(renderers, objective_named(config.objective, generator=draws), tokens, start.shifts)
    contexts, leaves = None, {}
    if config.algorithm == "cavia":
        assert isinstance(side, TorchSide) and isinstance(reader, TorchLoss)
        contexts = ContextReader(reader, side.packed, renderers, config.inner_steps, tokens_at_once(side.device))
        leaves = context_leaves(_start_contexts(config, side, domains[0].renderer), side.device)
    fixed = {PROMPT, *leaves} if tokens else ()
    leaves |= projector_leaves(tokens, side.device)
    trainer = MetaTrainer(reader, sampler, validation, start.prompt, config, out, contexts, leaves, fixed, draws)
    model = side.model
    save_peft(start.trained(trainer.run(progress, watch), model), out / "prompt")
    if contexts is not None:
        context_map(trainer.kept, model.model_id, model.sha256).save(out / "prompt" / CONTEXT_FILE)
    if tokens:
        save_item_tokens(trained_item_tokens(trainer.kept, tokens, model.model_id, model.sha256), out / "prompt")
    if config.adapts_prompts:
        rates = trainer.kept.get(RATE, torch.full_like(start.prompt, config.inner_rate)).float().cpu().numpy()
        StepSizes(rates=rates, steps=config.inner_steps).save(out / "prompt" / STEP_SIZES_FILE)
    write_json(out / "config.json", config.model_dump(mode="json"))
    plot_curve(trainer.curve, out / "curve.png")
    return TrainedPrompt(prompt=out / "prompt", curve=trainer.curve)


def plot_curve(curve: TrainingCurve, path: Path) -> None:
    """Writes the curve as a PNG; does nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(curve.losses) + 1), curve.losses, linewidth=0.8, label="training lists")
    axes.plot(*zip(*curve.validation, strict=True), marker="o", markersize=3, label="validation lists")
    axes.set_xlabel("step")
    axes.set_ylabel("loss a list")
    axes.legend()
    figure.savefig(path, dpi=120)


def _domain(source: DomainSource, config: MetaConfig, side: ModelSide, replayed: Replayed) -> TaskDomain:
    settings = config.reranker.prompt
    family = source.family
    if family is None and "family" not in settings.model_fields_set:
        family = family_for_domain(source.name, settings.directory)
    if family is not None:
        settings = settings.model_copy(update={"family": family})
    renderer = PromptRenderer.from_settings(settings, side.tokenizer, side.model.max_length)
    if source not in replayed:
        replayed[source] = TaskDomain.build(
            load_dataset(source.data, domain=source.name),
            ALSGenerator(),
            renderer,
            n_candidates=config.n_candidates,
            rounds=config.rounds,
            hold_out=config.hold_out,
            min_history=config.min_history,
            seed=config.seed,
        )
    return replayed[source].read_by(renderer, config.reranker.references, config.seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Start:
    """Where a prompt starts.

    Attributes:
        prompt: (k, dim) in the first domain.
        shifts: what the other domains' own instructions add to it, where the prompt is relative to them.
        written: (k, dim) the first domain's instruction, which is no part of a relative prompt; else None.
    """

    prompt: torch.Tensor
    shifts: Shifts
    written: torch.Tensor | None

    @classmethod
    def of(cls, config: MetaConfig, side: ModelSide, renderers: Mapping[str, PromptRenderer]) -> "_Start":
        """By the settings; the first of the renderers is the first domain's.

        Raises:
            PromptError: `config.start` holds no prompt for this model.
            ConfigError: it has another length than the settings say, or is relative where they say it is not.
        """
        k = config.reranker.soft_tokens
        given = None if config.start is None else load_peft(folder_of(config.start))
        if given is not None:
            given.require_model(side.model)
            if len(given) != k:
                raise ConfigError(f"the prompt in {config.start} has {len(given)} tokens, reranker.soft_tokens is {k}")
            if config.relative not in (None, given.relative):
                kind = "relative to the written instructions" if given.relative else "one for all domains"
                raise ConfigError(f"the prompt in {config.start} is {kind}, but relative is {config.relative}")
        relative = config.relative is not False if given is None else given.relative

        def instruction(renderer: PromptRenderer) -> torch.Tensor:
            written = SoftPrompt.from_instruction(side, renderer.instruction_token_ids(), k)
            return torch.from_numpy(written.vectors.copy()).to(side.device)

        learned = None if given is None else torch.from_numpy(given.vectors.copy()).to(side.device)
        if not relative:
            prompt = instruction(next(iter(renderers.values()))) if learned is None else learned
            return cls(prompt=prompt, shifts={}, written=None)
        written = {domain: instruction(one) for domain, one in renderers.items()}
        first = next(iter(written.values()))
        return cls(
            prompt=first if learned is None else first + learned,
            shifts={domain: one - first for domain, one in written.items()},
            written=first,
        )

    def trained(self, prompt: torch.Tensor, model: ModelInfo) -> SoftPrompt:
        """What came of the prompt, as it is saved."""
        vectors = prompt if self.written is None else prompt - self.written
        return SoftPrompt(
            vectors=vectors.float().cpu().numpy(),
            base_model_id=model.model_id,
            base_model_sha256=model.sha256,
            relative=self.written is not None,
        )


def _start_contexts(config: MetaConfig, side: ModelSide, renderer: PromptRenderer) -> ContextMap:
    """From newlines, which stand between the parts of a prompt anyway; or from `config.start`, where one lies."""
    if config.start is not None and (config.start / CONTEXT_FILE).exists():
        found = ContextMap.load(config.start / CONTEXT_FILE)
        if (found.dim, len(found.base)) != (config.context_dim, config.context_tokens):
            raise ConfigError(
                f"{config.start / CONTEXT_FILE} has {found.dim} floats and {len(found.base)} tokens a user, not "
                f"context_dim {config.context_dim} and context_tokens {config.context_tokens}"
            )
        return found
    newline = side.embed_tokens([renderer.tokenizer.encode("\n")[-1]])[0]
    return ContextMap.initial(newline, config.context_tokens, config.context_dim, config.seed)


def _start_item_tokens(config: MetaConfig, domains: Sequence[TaskDomain], side: ModelSide) -> dict[str, ItemTokens]:
    """Every item starts with the same token, which says nothing."""
    given = {one.name: one.item_vectors for one in config.domains}
    tokens = {}
    for domain in domains:
        place = given[domain.name]
        table = domain.space if place is None else VectorTable.read(place, domain.popular_ids)
        table.require_items(domain.popular_ids, domain.name)
        tokens[domain.name] = ItemTokens.initial(
            table,
            side.embed_tokens(domain.renderer.tokenizer.encode(_NEUTRAL)[-1:])[0],
            config.item_token_hidden,
            domain=domain.name,
            candidates=config.item_tokens == "both",
            seed=config.seed,
        )
    return tokens
