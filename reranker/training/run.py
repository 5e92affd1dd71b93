"""From a configuration to a trained soft prompt on disk."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from candidate_gen import ALSGenerator
from reranker.data.builtin import load_dataset
from reranker.engines.torch.engine import TorchEngine
from reranker.errors import ConfigError
from reranker.prompting import PromptRenderer, family_for_domain
from reranker.soft_tokens import CONTEXT_FILE, ContextMap
from reranker.soft_tokens.checkpoint import folder_of
from reranker.soft_tokens.peft_format import load_peft, save_peft
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.training.cavia import ContextReader, context_leaves, context_map
from reranker.training.config import DomainSource, MetaConfig
from reranker.training.inner_loop import InnerLoop
from reranker.training.tasks import TaskDomain, TaskSampler
from reranker.training.torch_loss import Shifts, TorchLoss, tokens_at_once
from reranker.training.trainer import MetaTrainer, TrainingCurve
from reranker.types import ModelInfo
from reranker.utils.atomic_io import write_json


@dataclass(frozen=True, kw_only=True)
class TrainedPrompt:
    """What `meta_train` wrote.

    Attributes:
        prompt: folder of the soft prompt in PEFT's format; `cavia` puts the users' `context.safetensors` beside it,
            `fomaml` the `inner_loop.json` that adapts it to a domain.
        curve: losses and validations.
    """

    prompt: Path
    curve: TrainingCurve


def meta_train(config: MetaConfig, out: Path, progress: bool = False) -> TrainedPrompt:
    """Trains a soft prompt and writes it to `out/prompt`, with `out/curve.json` and `out/curve.png`.

    Args:
        config: settings.
        out: folder; a run that it holds goes on.
        progress: show a progress bar on stderr.

    Raises:
        DataError: a domain without lists to learn from.
        ConfigError: `out` holds a run with other settings.
        PromptError: `config.start` holds no prompt for this model.
    """
    with closing(TorchEngine(config.reranker.model, dtype=config.dtype, device=config.device)) as engine:
        learned_from = [_domain(one, config, engine) for one in config.domains]
        held_out = [_domain(one, config, engine) for one in config.held_out]
        return _train(engine, learned_from, held_out, config, out, progress)


def _train(
    engine: TorchEngine,
    domains: Sequence[TaskDomain],
    held_out: Sequence[TaskDomain],
    config: MetaConfig,
    out: Path,
    progress: bool,
) -> TrainedPrompt:
    trained, validated = domains, held_out
    if not held_out:
        parts = [one.split(config.validation_share, config.seed) for one in domains]
        trained, validated = [one for one, _ in parts], [one for _, one in parts]
    sampler = TaskSampler(trained, negatives=config.negatives, temperature=config.temperature, seed=config.seed)
    validation = list(TaskSampler(validated, negatives=config.negatives).fixed(config.validation_lists))
    renderers = {one.name: one.renderer for one in [*trained, *validated]}
    start = _Start.of(config, engine, renderers)
    reader = TorchLoss(
        engine.packed_lm,
        renderers,
        config.coefficients,
        baseline=config.baseline,
        max_tokens=tokens_at_once(engine.device),
        shifts=start.shifts,
    )
    contexts, leaves = None, {}
    if config.algorithm == "cavia":
        contexts = ContextReader(reader, engine.packed_lm, renderers, config.inner_steps, tokens_at_once(engine.device))
        leaves = context_leaves(_start_contexts(config, engine, domains[0].renderer), engine.device)
    trainer = MetaTrainer(reader, sampler, validation, start.prompt, config, out, contexts, leaves)
    model, folder = engine.model, out / "prompt"
    save_peft(start.trained(trainer.run(progress), model), folder)
    if contexts is not None:
        context_map(trainer.best, model.model_id, model.sha256).save(folder / CONTEXT_FILE)
    if config.algorithm == "fomaml":
        InnerLoop(steps=config.inner_steps, rate=config.inner_rate).save(folder)
    write_json(out / "config.json", config.model_dump(mode="json"))
    plot_curve(trainer.curve, out / "curve.png")
    return TrainedPrompt(prompt=folder, curve=trainer.curve)


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


def _domain(source: DomainSource, config: MetaConfig, engine: TorchEngine) -> TaskDomain:
    settings = config.reranker.prompt
    family = source.family
    if family is None and "family" not in settings.model_fields_set:
        family = family_for_domain(source.name, settings.directory)
    if family is not None:
        settings = settings.model_copy(update={"family": family})
    renderer = PromptRenderer.from_settings(settings, engine.tokenizer, engine.model.max_length)
    domain = TaskDomain.build(
        load_dataset(source.data, domain=source.name),
        ALSGenerator(),
        renderer,
        n_candidates=config.n_candidates,
        rounds=config.rounds,
        hold_out=config.hold_out,
        min_history=config.min_history,
        seed=config.seed,
    )
    return domain.calibrated_by(config.reranker.calibration_histories, config.seed)


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
    def of(cls, config: MetaConfig, engine: TorchEngine, renderers: Mapping[str, PromptRenderer]) -> "_Start":
        """By the settings; the first of the renderers is the first domain's.

        Raises:
            PromptError: `config.start` holds no prompt for this model.
            ConfigError: it has another length than the settings say, or is relative where they say it is not.
        """
        k = config.reranker.soft_tokens
        given = None if config.start is None else load_peft(folder_of(config.start))
        if given is not None:
            given.require_model(engine.model)
            if len(given) != k:
                raise ConfigError(f"the prompt in {config.start} has {len(given)} tokens, reranker.soft_tokens is {k}")
            if config.relative not in (None, given.relative):
                kind = "relative to the written instructions" if given.relative else "one for all domains"
                raise ConfigError(f"the prompt in {config.start} is {kind}, but relative is {config.relative}")
        relative = config.relative is not False if given is None else given.relative

        def instruction(renderer: PromptRenderer) -> torch.Tensor:
            written = SoftPrompt.from_instruction(engine, renderer.instruction_token_ids(), k)
            return torch.from_numpy(written.vectors.copy()).to(engine.device)

        learned = None if given is None else torch.from_numpy(given.vectors.copy()).to(engine.device)
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


def _start_contexts(config: MetaConfig, engine: TorchEngine, renderer: PromptRenderer) -> ContextMap:
    """From newlines, which stand between the parts of a prompt anyway; or from `config.start`, where one lies."""
    if config.start is not None and (config.start / CONTEXT_FILE).exists():
        found = ContextMap.load(config.start / CONTEXT_FILE)
        if (found.dim, len(found.base)) != (config.context_dim, config.context_tokens):
            raise ConfigError(
                f"{config.start / CONTEXT_FILE} has {found.dim} floats and {len(found.base)} tokens a user, not "
                f"context_dim {config.context_dim} and context_tokens {config.context_tokens}"
            )
        return found
    newline = engine.embed_tokens([renderer.tokenizer.encode("\n")[-1]])[0]
    return ContextMap.initial(newline, config.context_tokens, config.context_dim, config.seed)
