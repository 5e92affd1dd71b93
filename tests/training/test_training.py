"""Learning a soft prompt on a tiny random model: what is read, that gradients are right, that runs resume exactly."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from candidate_gen import PopularityGenerator
from reranker.data.dataset import Dataset
from reranker.engines.loading import HubTokenizer, load_causal_lm
from reranker.engines.torch.engine import TorchEngine
from reranker.engines.torch.packed_lm import PackedLM
from reranker.errors import ConfigError, DataError, PromptError
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.scoring import LikelihoodScorer, ScoringList
from reranker.soft_tokens import CONTEXT_FILE, ContextMap, Support
from reranker.soft_tokens.peft_format import load_peft
from reranker.soft_tokens.prompt import SHIPPED, SoftPrompt
from reranker.soft_tokens.user_adaptation import ContextAdapter
from reranker.training.algorithms import FOMAML, PROMPT, Pooled, adapt, backward
from reranker.training.cavia import ContextReader, context_leaves, context_map
from reranker.training.config import DomainSource, MetaConfig
from reranker.training.inner_loop import INNER_LOOP_FILE, InnerLoop
from reranker.training.run import meta_train
from reranker.training.tasks import Episode, TaskDomain, TaskSampler
from reranker.training.torch_loss import TorchLoss, conditional_logit
from reranker.training.trainer import CHECKPOINT, MetaTrainer
from reranker.types import UserState
from tests.training.toys import TITLES, circle, saved

SETTINGS = PromptSettings(instruction=False, history_items=3, history_tokens=100)
COEFFICIENTS = (0.3, 0.5, 1.0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return circle()


@pytest.fixture(scope="module")
def domain(tiny: Path, data: Dataset) -> TaskDomain:
    renderer = PromptRenderer.from_settings(SETTINGS, HubTokenizer(tiny), 512)
    return TaskDomain.build(data, PopularityGenerator(), renderer, n_candidates=6, rounds=2, hold_out=1, min_history=1)


def packed(tiny: Path, dtype: torch.dtype = torch.float32) -> PackedLM:
    return PackedLM(load_causal_lm(tiny, "float32", "cpu").to(dtype), torch.device("cpu"))


def reader(lm: PackedLM, domain: TaskDomain, **options: Any) -> TorchLoss:
    return TorchLoss(lm, {domain.name: domain.renderer}, COEFFICIENTS, **options)


def prompt(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (0.1 * torch.randn((2, 32), generator=torch.Generator().manual_seed(0))).to(dtype).requires_grad_()


def mean_loss(loss: TorchLoss, values: dict[str, torch.Tensor], episodes: Sequence[Episode]) -> float:
    with torch.no_grad():
        return sum(part.loss.item() for part in loss.parts(values, episodes)) / len(episodes)


def test_episodes_are_earlier_than_what_is_held_out(domain: TaskDomain) -> None:
    for one in domain.episodes:
        user = int(str(one.user_id)[1:])
        (chosen,) = [item["title"] for item, flag in zip(one.candidates, one.chosen, strict=True) if flag]
        step = len(one.history)
        assert [item["title"] for item in one.history] == [TITLES[(user + n) % 8] for n in range(step)]
        assert chosen == TITLES[(user + step) % 8]
        assert step in (3, 4)  # of 6 interactions the last is held out; two rounds replay the two before it


def test_a_split_shares_no_user(domain: TaskDomain) -> None:
    rest, apart = domain.split(0.25, seed=1)
    assert {one.user_id for one in rest.episodes}.isdisjoint(one.user_id for one in apart.episodes)
    assert len(rest.episodes) + len(apart.episodes) == len(domain.episodes)
    assert apart.episodes


def test_draws_depend_on_seed_and_step_alone(domain: TaskDomain) -> None:
    def users(seed: int, step: int) -> list[object]:
        return [one.user_id for one in TaskSampler([domain], seed=seed).batch(step, 20)]

    assert users(0, 3) == users(0, 3)
    assert users(0, 3) != users(0, 4)
    assert users(0, 3) != users(1, 3)


def test_thinned_lists_keep_the_chosen_and_the_order(domain: TaskDomain) -> None:
    for one in TaskSampler([domain], negatives=2).batch(0, 30):
        whole = next(
            two for two in domain.episodes if two.user_id == one.user_id and len(two.history) == len(one.history)
        )
        assert len(one.candidates) == 3
        assert one.chosen.sum() == 1
        places = [[id(item) for item in whole.candidates].index(id(item)) for item in one.candidates]
        assert places == sorted(places)
        assert one.baseline.tolist() == whole.baseline[places].tolist()


def test_training_refers_to_two_histories_of_what_is_chosen(domain: TaskDomain) -> None:
    many = [{"title": f"title {number}", "category": ""} for number in range(60)]
    larger = replace(domain, popular=many)
    read = larger.calibrated_by(8, seed=1).renderer.calibration_histories
    assert [len(history) for history in read] == [12, 12]
    assert all(item in many for history in read for item in history)
    assert [len(larger.calibrated_by(count).renderer.calibration_histories) for count in (0, 1)] == [0, 1]


@pytest.mark.parametrize("n_references", [0, 2])
def test_components_are_those_of_the_read_out(tiny: Path, domain: TaskDomain, n_references: int) -> None:
    histories = [one.history for one in domain.episodes[-n_references:]] if n_references else []
    domain = replace(domain, renderer=domain.renderer.calibrated_by(histories))
    values = {"prompt": prompt()}
    soft = SoftPrompt(vectors=values["prompt"].detach().numpy()).as_sequence()
    scoring = LikelihoodScorer(TorchEngine(tiny, dtype="float32", device="cpu"), domain.renderer)
    for part in reader(packed(tiny), domain).parts(values, domain.episodes[:6]):
        lists = [ScoringList(history=e.history, candidates=e.candidates, soft_prompt=soft) for e in part.episodes]
        for served, trained in zip(scoring.score_components(lists), part.components, strict=True):
            np.testing.assert_allclose(trained.numpy(), served, atol=1e-4)


def test_the_gradient_is_that_of_finite_differences(tiny: Path, domain: TaskDomain) -> None:
    loss = reader(packed(tiny, torch.float64), domain)
    values = {"prompt": prompt(torch.float64)}
    backward(loss, values, domain.episodes[:3])
    gradient = values["prompt"].grad
    assert gradient is not None

    def total(vectors: torch.Tensor) -> float:
        return mean_loss(loss, {"prompt": vectors}, domain.episodes[:3])

    _check_differences(total, values["prompt"].detach(), gradient)


def test_the_loss_does_not_depend_on_how_lists_are_grouped(tiny: Path, domain: TaskDomain) -> None:
    lm, values = packed(tiny), {"prompt": prompt()}
    together = mean_loss(reader(lm, domain, max_tokens=100_000), values, domain.episodes[:8])
    apart = mean_loss(reader(lm, domain, max_tokens=2), values, domain.episodes[:8])
    assert together == pytest.approx(apart, abs=1e-5)


def test_first_order_is_the_gradient_at_the_adapted_prompt(tiny: Path, domain: TaskDomain) -> None:
    loss = reader(packed(tiny), domain)
    sampler = TaskSampler([domain])
    values = {"prompt": prompt()}
    FOMAML(loss, sampler, lists=6, inner_steps=2, rate=0.1).accumulate(values, step=0)
    _, support, query = sampler.task(0, 2)
    adapted = adapt(loss, {"prompt": prompt()}, support, 2, 0.1).requires_grad_()
    backward(loss, {"prompt": adapted}, query)
    torch.testing.assert_close(values["prompt"].grad, adapted.grad)


@pytest.mark.parametrize("algorithm", ["pooled", "cavia", "fomaml"])
def test_the_loss_falls(tiny: Path, domain: TaskDomain, algorithm: str, tmp_path: Path) -> None:
    trainer = _trainer(tiny, domain, tmp_path, algorithm=algorithm, steps=10, lists_per_step=8, refit_every=0)
    trainer.run()
    before, after = trainer.curve.validation[0][1], trainer.curve.best[1]
    assert after < 0.9 * before


@pytest.mark.parametrize("baseline", [True, False])
def test_the_curve_says_what_is_lost_without_the_llm(
    tiny: Path, domain: TaskDomain, tmp_path: Path, baseline: bool
) -> None:
    trainer = _trainer(tiny, domain, tmp_path, steps=1, baseline=baseline)
    trainer.run()
    losses = []
    for episode in TaskSampler([domain]).fixed(12):
        odds = np.exp(episode.baseline if baseline else np.zeros(len(episode.candidates)))
        losses.append(-np.log(odds[episode.chosen] / odds.sum()).sum())
    assert trainer.curve.without_llm == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_first_coefficients_are_fitted_on_many_lists(tiny: Path, domain: TaskDomain, tmp_path: Path) -> None:
    curves = []
    for name, lists in (("few", 1), ("more", 40)):
        trainer = _trainer(tiny, domain, tmp_path / name, steps=1, first_fit_lists=lists)
        trainer.run()
        assert len(trainer._recording.window) == max(lists, 12) + 12
        curves.append(trainer.curve.coefficients[0])
    assert curves[0][0] == curves[1][0] == 0 and curves[0] != curves[1]


def test_lists_are_read_under_the_tokens_that_serving_makes(tiny: Path, domain: TaskDomain) -> None:
    """Trained as served: the contexts of `ContextAdapter`, as tokens of `ContextMap`, in the scorer of an engine."""
    lm, contexts = packed(tiny), context_map_of(32)
    values = {"prompt": prompt(), **context_leaves(contexts, lm.device)}
    soft = SoftPrompt(vectors=values["prompt"].detach().numpy()).as_sequence()
    scoring = LikelihoodScorer(TorchEngine(tiny, dtype="float32", device="cpu"), domain.renderer)
    adapter = ContextAdapter(lm, domain.renderer, soft, contexts, steps=2)
    for part in ContextReader(reader(lm, domain), lm, {domain.name: domain.renderer}, 2).parts(
        values, domain.episodes[:6]
    ):
        states, _ = adapter.adapt([Support(state=UserState(user_id=e.user_id), items=e.history) for e in part.episodes])
        lists = [
            ScoringList(
                history=e.history,
                candidates=e.candidates,
                soft_prompt=soft,
                user_tokens=contexts.tokens(state.vector, state.support),
            )
            for e, state in zip(part.episodes, states, strict=True)
        ]
        for served, trained in zip(scoring.score_components(lists), part.components, strict=True):
            np.testing.assert_allclose(trained.numpy(), served, atol=1e-3)


def test_the_gradient_of_contexts_is_that_of_finite_differences(tiny: Path, domain: TaskDomain) -> None:
    """All but the inner gradients' directions, which are constants to a first-order method: so no inner step here."""
    lm = packed(tiny, torch.float64)
    loss = ContextReader(reader(lm, domain), lm, {domain.name: domain.renderer}, steps=0)
    leaves = {name: value.double() for name, value in context_leaves(context_map_of(32), lm.device).items()}
    values = {"prompt": prompt(torch.float64), **{name: one.requires_grad_() for name, one in leaves.items()}}
    backward(loss, values, domain.episodes[:3])
    widths = {"base": 1e-3, "directions": 1e-3, "amortise": 2e-3, "log_shrinkage": 1e-1}
    for name, width in widths.items():
        leaf = values[f"context.{name}"]
        assert leaf.grad is not None

        def total(moved: torch.Tensor, name: str = name) -> float:
            with torch.no_grad():
                parts = loss.parts({**values, f"context.{name}": moved}, domain.episodes[:3])
                return sum(part.loss.item() for part in parts) / 3

        _check_differences(total, leaf.detach(), leaf.grad, width, rel=1e-2)


def test_contexts_learn_how_far_to_move(tiny: Path, domain: TaskDomain, tmp_path: Path) -> None:
    trainer = _trainer(tiny, domain, tmp_path, algorithm="cavia", steps=4)
    before = context_map(trainer.values)
    trainer.run()
    after = context_map(trainer.values)
    for name in ("base", "directions", "amortise", "rates", "log_shrinkage"):
        assert np.abs(getattr(after, name) - getattr(before, name)).max() > 0, name


@pytest.mark.parametrize("algorithm", ["pooled", "cavia", "fomaml"])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    tiny: Path, domain: TaskDomain, algorithm: str, tmp_path: Path
) -> None:
    whole = _trainer(tiny, domain, tmp_path / "whole", algorithm=algorithm)
    expected = whole.run()
    broken = _trainer(tiny, domain, tmp_path / "broken", algorithm=algorithm)
    step = broken._step
    broken._step = lambda number: (_ for _ in ()).throw(KeyboardInterrupt) if number == 5 else step(number)  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = _trainer(tiny, domain, tmp_path / "broken", algorithm=algorithm)
    assert len(again.curve.losses) == 4  # checkpoints are every second step
    assert torch.equal(again.run(), expected)
    assert again.curve == whole.curve


def test_a_checkpoint_of_other_settings_is_refused(tiny: Path, domain: TaskDomain, tmp_path: Path) -> None:
    _trainer(tiny, domain, tmp_path, steps=2).run()
    with pytest.raises(ConfigError, match="made with other settings"):
        _trainer(tiny, domain, tmp_path, steps=2, learning_rate=0.5)


def test_a_checkpoint_of_an_option_that_left_is_refused(tiny: Path, domain: TaskDomain, tmp_path: Path) -> None:
    _trainer(tiny, domain, tmp_path, steps=2).run()
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    kept["config"] = json.dumps({**json.loads(kept["config"]), "meta_sgd": True})
    torch.save(kept, tmp_path / CHECKPOINT)
    with pytest.raises(ConfigError, match=r"checkpoint.pt .*meta_sgd has left the product.*another folder"):
        _trainer(tiny, domain, tmp_path, steps=2)


def test_training_stops_when_validation_does(tiny: Path, domain: TaskDomain, tmp_path: Path) -> None:
    trainer = _trainer(tiny, domain, tmp_path, steps=50, learning_rate=1e-12, validate_every=1, patience=2)
    trainer.run()
    assert len(trainer.curve.losses) < 50


def test_what_is_kept_is_the_prompt_of_the_best_validation(tiny: Path, domain: TaskDomain, tmp_path: Path) -> None:
    trainer = _trainer(tiny, domain, tmp_path, steps=4, learning_rate=50, validate_every=1, refit_every=0)
    kept = trainer.run()
    assert torch.equal(kept, trainer.best[PROMPT])
    validation = list(TaskSampler([domain]).fixed(12))
    loss = mean_loss(reader(packed(tiny), domain, baseline=False), {PROMPT: kept}, validation)
    assert loss == pytest.approx(min(loss for _, loss in trainer.curve.validation), abs=1e-4)


def test_scalars_reach_tensorboard(tiny: Path, domain: TaskDomain, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    _trainer(tiny, domain, tmp_path, steps=2).run()
    (events,) = (tmp_path / "tensorboard").iterdir()
    written = events.read_bytes()
    assert all(name in written for name in (b"loss", b"gradient_norm", b"validation_loss"))


def test_nothing_to_learn_from(domain: TaskDomain) -> None:
    empty, _ = domain.split(1.0, seed=0)
    with pytest.raises(DataError, match="nothing to learn from"):
        TaskSampler([empty])


@pytest.mark.parametrize("algorithm", ["pooled", "cavia", "fomaml"])
def test_a_run_from_tables_to_a_prompt(tiny: Path, algorithm: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "data")
    config = MetaConfig.from_mapping(
        {
            "domains": [{"name": "shop", "data": str(folder), "family": "generic"}],
            "reranker": {"model": str(tiny), "soft_tokens": 2, "prompt": {"history_items": 3}},
            "algorithm": algorithm,
            "inner_steps": 1,
            "context_dim": 5,
            "steps": 2,
            "first_fit_lists": 16,
            "lists_per_step": 4,
            "hold_out": 1,
            "min_history": 1,
            "n_candidates": 6,
            "dtype": "bfloat16" if algorithm == "fomaml" else "float32",
        }
    )
    trained = meta_train(config, tmp_path / "out")
    written = load_peft(trained.prompt)
    assert written.vectors.shape == (2, 32)
    assert written.base_model_sha256
    assert (tmp_path / "out" / "curve.json").exists()
    assert (trained.prompt / CONTEXT_FILE).exists() == (algorithm == "cavia")
    assert InnerLoop.beside(trained.prompt) == (InnerLoop(steps=1, rate=0.05) if algorithm == "fomaml" else None)
    if algorithm == "cavia":
        contexts = ContextMap.load(trained.prompt / CONTEXT_FILE)
        assert (contexts.dim, contexts.base.shape) == (5, (4, 32))
        assert contexts.base_model_sha256 == written.base_model_sha256


def test_validation_reads_the_held_out_domain_and_stops_the_run(tiny: Path, tmp_path: Path) -> None:
    for number, users in enumerate((24, 16, 12)):
        saved(tmp_path / str(number), users)

    def validation(learned_from: int, held_out: int) -> tuple[float, int]:
        """The first loss, and after how many steps a run that gets no better ends."""
        values = {
            "domains": [{"name": "shop", "data": str(tmp_path / str(learned_from)), "family": "generic"}],
            "held_out": [{"name": "other", "data": str(tmp_path / str(held_out)), "family": "generic"}],
            "reranker": {"model": str(tiny), "soft_tokens": 2, "prompt": {"history_items": 3}},
            "learning_rate": 1e-12,
            "steps": 9,
            "patience": 2,
            "refit_every": 0,
            "validate_every": 1,
            "lists_per_step": 2,
            "hold_out": 1,
            "min_history": 1,
            "n_candidates": 6,
            "dtype": "float32",
        }
        curve = meta_train(MetaConfig.from_mapping(values), tmp_path / f"run{learned_from}{held_out}").curve
        return curve.validation[0][1], len(curve.losses)

    first, steps = validation(0, 1)
    assert steps < 9
    assert validation(2, 1)[0] == first
    assert validation(0, 2)[0] != first


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["pooled", "cavia", "fomaml"])
def test_a_gpu_reads_the_same_curve(tiny: Path, algorithm: str, tmp_path: Path) -> None:
    saved(tmp_path / "data")
    curves = []
    for device in ("cpu", "cuda"):
        values = {
            "domains": [{"name": "shop", "data": str(tmp_path / "data"), "family": "generic"}],
            "reranker": {"model": str(tiny), "soft_tokens": 2, "prompt": {"history_items": 3}},
            "algorithm": algorithm,
            "steps": 2,
            "first_fit_lists": 16,
            "lists_per_step": 8,
            "hold_out": 1,
            "min_history": 1,
            "n_candidates": 6,
            "dtype": "float32",
            "device": device,
        }
        curves.append(meta_train(MetaConfig.from_mapping(values), tmp_path / device).curve)
    assert curves[1].losses == pytest.approx(curves[0].losses, abs=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "stepz"),
        ({"domains": []}, "domains"),
        ({"reranker": {"soft_tokens": 0}}, "no prompt to train"),
        ({"reranker": {"scorer": "labels"}}, "only 'likelihood'"),
        ({"algorithm": "fomaml", "lists_per_step": 4}, "too small"),
        ({"algorithm": "maml"}, "algorithm: maml has left the product: use 'fomaml'"),
        ({"algorithm": "es", "sigma": 1}, "sigma has left .* 'es'; algorithm: es has left the product: use 'pooled'"),
        ({"algorithm": "annealing"}, "'pooled', 'cavia' or 'fomaml'"),
        ({"objective": "bce"}, "objective has left the product: lists are learned by the conditional logit"),
        ({"domains": [{"name": "shop", "data": "one", "item_vectors": "v"}]}, "item_vectors has left the product"),
        ({"domains": [{"name": "shop", "data": "one"}, {"name": "shop", "data": "two"}]}, "shop stand there twice"),
        ({"held_out": [{"name": "shop", "data": "somewhere"}]}, "shop stand there twice"),
        ({"validation_share": 0}, "no users are left to validate on"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    values = {"domains": [{"name": "shop", "data": "somewhere"}], **change}
    with pytest.raises(ConfigError, match=message):
        MetaConfig.from_mapping(values)


def test_settings_of_kept_prompts_can_be_trained_again() -> None:
    repository = Path(__file__).parents[2]
    kept = [SHIPPED / "meta.yaml", *(repository / "eval" / "prompts").rglob("meta.yaml")]
    assert len(kept) >= 6
    for path in kept:
        assert not MetaConfig.from_mapping(yaml.safe_load(path.read_text())).baseline


def _trainer(tiny: Path, domain: TaskDomain, directory: Path, **changes: Any) -> MetaTrainer:
    values: dict[str, Any] = {
        "domains": (DomainSource(name="generic", data="unused"),),
        "coefficients": COEFFICIENTS,
        "baseline": False,
        "steps": 7,
        "first_fit_lists": 16,
        "lists_per_step": 12,
        "learning_rate": 0.05,
        "inner_steps": 1,
        "warmup": 2,
        "refit_every": 3,
        "validate_every": 4,
        "patience": 0,
        "checkpoint_every": 2,
        "clip": 100.0,
        **changes,
    }
    config = MetaConfig.model_validate(values)
    algorithm = config.algorithm
    validation = list(TaskSampler([domain]).fixed(12))
    sampler = TaskSampler([domain], seed=config.seed)
    lm = packed(tiny)
    lists = reader(lm, domain, baseline=config.baseline)
    if algorithm != "cavia":
        return MetaTrainer(lists, sampler, validation, prompt(), config, directory)
    contexts = ContextReader(lists, lm, {domain.name: domain.renderer}, config.inner_steps)
    leaves = context_leaves(context_map_of(32), lm.device)
    return MetaTrainer(lists, sampler, validation, prompt(), config, directory, contexts, leaves)


def context_map_of(dim: int) -> ContextMap:
    """2 tokens from 3 floats, where every part matters."""
    random = np.random.default_rng(1)
    return ContextMap(
        base=0.1 * random.standard_normal((2, dim)),
        directions=0.1 * random.standard_normal((3, 2, dim)),
        amortise=0.1 * random.standard_normal((dim + 1, 3)),
        rates=np.array([0.1, 0.5, 1.0]),
        log_shrinkage=np.zeros(1),
    )


def _check_differences(
    total: Any, at: torch.Tensor, gradient: torch.Tensor, width: float = 1e-4, rel: float = 2e-3
) -> None:
    """Along directions drawn at random: fourth-order central differences (the model's norms compute in float32)."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(at.shape, generator=generator, dtype=at.dtype)
        near, far = (total(at + h * direction) - total(at - h * direction) for h in (width, 2 * width))
        difference = (8 * near - far) / (12 * width)
        assert float((gradient * direction).sum()) == pytest.approx(difference, rel=rel, abs=5e-4)


def test_pooled_is_the_mean_gradient(tiny: Path, domain: TaskDomain) -> None:
    loss, sampler = reader(packed(tiny), domain), TaskSampler([domain])
    values = {"prompt": prompt()}
    Pooled(loss, sampler, 4).accumulate(values, step=3)
    expected = {"prompt": prompt()}
    for one in sampler.batch(3, 4):
        for part in loss.parts(expected, [one]):
            torch.autograd.backward(part.loss / 4)
    torch.testing.assert_close(values["prompt"].grad, expected["prompt"].grad, atol=1e-5, rtol=1e-4)


def test_the_conditional_logit_by_hand() -> None:
    def read(utilities: list[float], there: list[bool]) -> tuple[float, list[float]]:
        """Loss and gradient of a list whose first item was chosen."""
        values = torch.tensor([utilities], dtype=torch.float64, requires_grad=True)
        chosen = torch.tensor([[True, *[False] * (len(utilities) - 1)]])
        loss = conditional_logit(values, chosen, torch.tensor([there])).sum()
        torch.autograd.backward(loss)
        assert values.grad is not None
        return loss.item(), values.grad[0].tolist()

    loss, gradient = read([np.log(2), 0.0, 0.0], [True] * 3)
    assert loss == pytest.approx(np.log(2))
    assert gradient == pytest.approx([-0.5, 0.25, 0.25])  # P - chosen
    assert read([np.log(2), 0.0, 0.0, 50.0], [True, True, True, False]) == (loss, pytest.approx([*gradient, 0.0]))


def test_an_inner_loop_is_kept_beside_a_prompt(tmp_path: Path) -> None:
    assert InnerLoop.beside(tmp_path) is None
    (tmp_path / "step_sizes.safetensors").touch()
    with pytest.raises(PromptError, match="have left the product: delete the file"):
        InnerLoop.beside(tmp_path)
    InnerLoop(steps=2, rate=0.5).save(tmp_path)
    assert InnerLoop.beside(tmp_path) == InnerLoop(steps=2, rate=0.5)
    for damaged in ("damaged", "[]", "{}", '{"steps": 1, "rate": NaN}', '{"steps": 0, "rate": 1}'):
        (tmp_path / INNER_LOOP_FILE).write_text(damaged)
        with pytest.raises(PromptError, match="holds no steps and rate"):
            InnerLoop.beside(tmp_path)
    with pytest.raises(ConfigError, match="steps of a size above 0"):
        InnerLoop(rate=0)
