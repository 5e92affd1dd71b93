"""CMA-ES: what an engine says is enough to learn a prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from candidate_gen import PopularityGenerator
from reranker.engines.loading import load_causal_lm
from reranker.engines.scripted import ScriptedEngine
from reranker.engines.torch.engine import TorchEngine
from reranker.engines.torch.packed_lm import PackedLM
from reranker.errors import ConfigError, EngineError
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.protocols import Engine
from reranker.soft_tokens.peft_format import load_peft
from reranker.training.config import DomainSource, MetaConfig
from reranker.training.engine_loss import EngineLoss
from reranker.training.evolution import Evolution
from reranker.training.objectives import conditional_logit
from reranker.training.run import meta_train
from reranker.training.tasks import Episode, TaskDomain, TaskSampler
from reranker.training.torch_loss import TorchLoss, Values
from reranker.training.trainer import MetaTrainer
from reranker.types import ScoringRequest, SpanScores
from tests.engines.server import Server, running
from tests.training.toys import circle, run_without_model, saved

SETTINGS = PromptSettings(instruction=False, history_items=3, history_tokens=100)
COEFFICIENTS = (0.3, 0.5, 1.0)


def domain_for(engine: Engine) -> TaskDomain:
    renderer = PromptRenderer.from_settings(SETTINGS, engine.tokenizer, 512)
    return TaskDomain.build(
        circle(), PopularityGenerator(), renderer, n_candidates=6, rounds=2, hold_out=1, min_history=1
    )


def start() -> torch.Tensor:
    return 0.1 * torch.randn((2, 32), generator=torch.Generator().manual_seed(0))


@dataclass
class Distance:
    """A loss that is known: how far the prompt is from a place, the same for every list."""

    place: torch.Tensor
    read: int = 0

    def parts(self, values: Values, episodes: Sequence[Episode]) -> Iterator[Any]:
        self.read += len(episodes)

        @dataclass
        class Part:
            loss: torch.Tensor

        yield Part(len(episodes) * (values["prompt"] - self.place).square().sum())


def test_it_finds_the_best_prompt_of_its_subspace(engine: TorchEngine) -> None:
    sampler, begin = TaskSampler([domain_for(engine)]), start()
    away = Evolution(Distance(begin), sampler, 12, begin, subspace=4, seed=3)
    target = away._prompt(np.array([0.5, -1.0, 0.2, 0.8]))
    loss = Distance(target)
    evolution = Evolution(loss, sampler, 12, begin, subspace=4, sigma=0.3, seed=3)
    values = {"prompt": begin.clone().requires_grad_()}
    for step in range(60):
        evolution.accumulate(values, step)
    assert values["prompt"].grad is None
    torch.testing.assert_close(values["prompt"].detach(), target, atol=1e-3, rtol=0)
    members = 4 + int(3 * np.log(4))
    assert loss.read == 60 * members * (12 // members)


def test_a_generation_needs_a_list_a_member(engine: TorchEngine) -> None:
    with pytest.raises(ConfigError, match="lists_per_step is 5"):
        Evolution(Distance(start()), TaskSampler([domain_for(engine)]), 5, start(), population=6)


def test_an_engine_reads_the_losses_that_training_reads(tiny: Path, engine: TorchEngine) -> None:
    domain = domain_for(engine)
    lm = PackedLM(load_causal_lm(tiny, "float32", "cpu"), torch.device("cpu"))
    options: dict[str, Any] = {"title_weight": 0.3, "category_weight": 0.4, "evidence": True}
    renderers = {domain.name: domain.renderer}
    readers: list[TorchLoss | EngineLoss] = [
        TorchLoss(lm, renderers, conditional_logit, COEFFICIENTS, **options),
        EngineLoss(engine, renderers, conditional_logit, COEFFICIENTS, **options),
    ]
    values, episodes = {"prompt": start()}, domain.episodes[:8]
    with torch.no_grad():
        trained, served = (sum(part.loss.item() for part in one.parts(values, episodes)) for one in readers)
    assert served == pytest.approx(trained, abs=1e-3)


class Counting:
    """Any engine, through the protocol alone; remembers the lists it scored."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.model, self.tokenizer = engine.name, engine.model, engine.tokenizer
        self.embed_tokens, self.label_log_probs, self.close = engine.embed_tokens, engine.label_log_probs, engine.close
        self.engine, self.lists = engine, []

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        self.lists.append(requests)
        return self.engine.span_log_likelihoods(requests)


def test_members_read_the_same_lists_through_the_protocol_alone() -> None:
    engine = Counting(ScriptedEngine(dim=32))
    domain = domain_for(engine)
    reader = EngineLoss(engine, {domain.name: domain.renderer}, conditional_logit, COEFFICIENTS)
    evolution = Evolution(reader, TaskSampler([domain]), 24, start(), population=6)
    evolution.accumulate({"prompt": start()}, 0)
    lists = [requests for requests in engine.lists if len(requests) == 4]  # the others are priors
    assert len(lists) == 6
    texts = [[[one.sequence.token_ids.tolist() for one in request.candidates] for request in each] for each in lists]
    assert all(one == texts[0] for one in texts)
    prompts = {requests[0].prefix.vectors.tobytes() for requests in lists}
    assert len(prompts) == 6


def trainer(engine: Engine, directory: Path, **changes: Any) -> MetaTrainer:
    values: dict[str, Any] = {
        "domains": (DomainSource(name="generic", data="unused"),),
        "algorithm": "es",
        "coefficients": COEFFICIENTS,
        "evidence": False,
        "sigma": 0.5,
        "subspace": 4,
        "population": 6,
        "lists_per_step": 24,
        "refit_every": 0,
        "validate_every": 3,
        "patience": 0,
        "checkpoint_every": 2,
        **changes,
    }
    config = MetaConfig.model_validate(values)
    domain = domain_for(engine)
    reader = EngineLoss(engine, {domain.name: domain.renderer}, conditional_logit, COEFFICIENTS, evidence=False)
    validation = list(TaskSampler([domain]).fixed(12))
    return MetaTrainer(reader, TaskSampler([domain]), validation, start(), config, directory)


def test_the_loss_falls(engine: TorchEngine, tmp_path: Path) -> None:
    run = trainer(engine, tmp_path, steps=8, validate_every=4)
    run.run()
    assert run.curve.best[1] < 0.9 * run.curve.validation[0][1]
    assert run.curve.lists == 8 * 24


def test_a_resumed_run_equals_an_uninterrupted_one(engine: TorchEngine, tmp_path: Path) -> None:
    expected = trainer(engine, tmp_path / "whole", steps=4, refit_every=2, validate_every=4)
    prompt = expected.run()
    broken = trainer(engine, tmp_path / "broken", steps=4, refit_every=2, validate_every=4)
    step = broken._step
    broken._step = lambda number: (_ for _ in ()).throw(KeyboardInterrupt) if number == 3 else step(number)  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = trainer(engine, tmp_path / "broken", steps=4, refit_every=2, validate_every=4)
    assert len(again.curve.losses) == 2
    assert torch.equal(again.run(), prompt)
    assert again.curve == expected.curve


def test_a_run_from_tables_to_a_prompt_without_a_model(tmp_path: Path) -> None:
    config = MetaConfig.from_mapping(run_without_model(saved(tmp_path / "data")))
    trained = meta_train(config, tmp_path / "out")
    assert load_peft(trained.prompt).vectors.shape == (2, 16)
    assert len(trained.curve.losses) == 2


def test_validation_reads_the_held_out_domain_and_stops_the_run(tmp_path: Path) -> None:
    for number, users in enumerate((24, 16, 12)):
        saved(tmp_path / str(number), users)

    def validation(learned_from: int, held_out: int) -> tuple[float, int]:
        """The first loss, and after how many steps a run that gets no better ends."""
        values = {
            **run_without_model(tmp_path / str(learned_from)),
            "held_out": [{"name": "other", "data": str(tmp_path / str(held_out)), "family": "generic"}],
            "sigma": 1e-9,
            "steps": 9,
            "patience": 2,
            "refit_every": 0,
        }
        curve = meta_train(MetaConfig.from_mapping(values), tmp_path / f"run{learned_from}{held_out}").curve
        return curve.validation[0][1], len(curve.losses)

    first, steps = validation(0, 1)
    assert steps == 2
    assert validation(2, 1)[0] == first
    assert validation(0, 2)[0] != first


def test_a_server_that_takes_no_vectors_is_refused_at_once(tiny: Path, tmp_path: Path) -> None:
    with running(Server(tiny)) as server:
        options = {"base_url": server.base_url, "tokenizer": str(tiny)}
        remote = {"model": server.model, "engine": "openai", "engine_options": options}
        values = {**run_without_model(tmp_path / "missing"), "reranker": remote}
        with pytest.raises(EngineError, match="cannot send vectors"):
            meta_train(MetaConfig.from_mapping(values), tmp_path / "out")
