"""Prompts that are relative to each domain's written instruction: learned, kept, read, shipped."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.config import RerankerConfig
from reranker.engines.scripted import ScriptedEngine
from reranker.engines.torch.engine import TorchEngine
from reranker.errors import ConfigError, PromptError
from reranker.evaluation.score_cache import ScoreCache
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.soft_tokens import ContextMap
from reranker.soft_tokens.checkpoint import SHIPPED, Trained
from reranker.soft_tokens.peft_format import load_peft, save_peft
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.training.algorithms import EpisodeLoss
from reranker.training.cavia import ContextReader, context_leaves
from reranker.training.config import MetaConfig
from reranker.training.run import meta_train
from reranker.training.tasks import Episode, TaskDomain
from reranker.training.torch_loss import TorchLoss
from tests.training.toys import circle, saved

SOFT = 32  # the first words of all instructions are the same, and the tiny model reads bytes
FAMILIES = {"games": "games", "shop": "shop"}
COEFFICIENTS = (0.3, 0.5, 1.0)


@pytest.fixture(scope="module")
def renderers(engine: TorchEngine) -> dict[str, PromptRenderer]:
    return {
        domain: PromptRenderer.from_settings(PromptSettings(family=family, history_items=3), engine.tokenizer, 512)
        for domain, family in FAMILIES.items()
    }


@pytest.fixture(scope="module")
def episodes(renderers: dict[str, PromptRenderer]) -> list[Episode]:
    """Two of each domain."""
    made = TaskDomain.build(
        circle(), PopularityGenerator(), renderers["shop"], n_candidates=6, rounds=2, hold_out=1, min_history=1
    ).episodes
    return [replace(one, domain=domain) for domain in FAMILIES for one in made[:2]]


def written(engine: TorchEngine, renderer: PromptRenderer) -> torch.Tensor:
    return torch.from_numpy(SoftPrompt.from_instruction(engine, renderer.instruction_token_ids(), SOFT).vectors)


def offset() -> torch.Tensor:
    return 0.1 * torch.randn((SOFT, 32), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["episodes", "contexts"])
def test_a_shift_is_what_a_domains_own_prompt_adds(
    engine: TorchEngine, renderers: dict[str, PromptRenderer], episodes: list[Episode], kind: str
) -> None:
    own = {domain: written(engine, one) for domain, one in renderers.items()}
    shifts = {domain: one - own["games"] for domain, one in own.items()}
    map_ = ContextMap(
        base=0.1 * np.ones((2, 32)),
        directions=0.1 * np.random.default_rng(1).standard_normal((3, 2, 32)),
        amortise=0.1 * np.random.default_rng(2).standard_normal((33, 3)),
        rates=np.array([0.1, 0.5, 1.0]),
        log_shrinkage=np.zeros(1),
    )

    def losses(shifts: Mapping[str, torch.Tensor], prompt: torch.Tensor, some: list[Episode]) -> list[float]:
        values = {"prompt": prompt, **(context_leaves(map_, engine.packed_lm.device) if kind == "contexts" else {})}
        reader: EpisodeLoss = TorchLoss(engine.packed_lm, renderers, COEFFICIENTS, baseline=False, shifts=shifts)
        if kind == "contexts":
            assert isinstance(reader, TorchLoss)
            reader = ContextReader(reader, engine.packed_lm, renderers, steps=2)
        with torch.no_grad():
            return [float(part.loss) for part in reader.parts(values, some)]

    together = losses(shifts, own["games"] + offset(), episodes)
    apart = [
        losses({}, own[domain] + offset(), [one for one in episodes if one.domain == domain])[0] for domain in FAMILIES
    ]
    assert together == pytest.approx(apart, abs=1e-5)
    one_for_all = losses({}, own["games"] + offset(), episodes)
    assert one_for_all[0] == pytest.approx(together[0], abs=1e-5)
    assert abs(one_for_all[1] - together[1]) > 1e-3


def settings(tmp_path: Path, tiny: Path, **changes: Any) -> MetaConfig:
    folder = tmp_path / "data"
    if not folder.exists():
        saved(folder)
    return MetaConfig.from_mapping(
        {
            "domains": [{"name": name, "data": str(folder), "family": family} for name, family in FAMILIES.items()],
            "reranker": {"model": str(tiny), "soft_tokens": SOFT, "prompt": {"history_items": 3}},
            "steps": 2,
            "first_fit_lists": 16,
            "lists_per_step": 2,
            "rounds": 1,
            "negatives": 3,
            "learning_rate": 0.01,
            "refit_every": 0,
            "validate_every": 1,
            "hold_out": 1,
            "min_history": 1,
            "n_candidates": 6,
            "dtype": "float32",
            **changes,
        }
    )


def test_every_domain_starts_from_its_own_instruction(tiny: Path, tmp_path: Path) -> None:
    both = meta_train(settings(tmp_path, tiny, steps=1), tmp_path / "both").curve.validation[0][1]
    alone = []
    for name, family in FAMILIES.items():
        source = {"name": name, "data": str(tmp_path / "data"), "family": family}
        config = settings(tmp_path, tiny, domains=[source], steps=1, relative=False)
        alone.append(meta_train(config, tmp_path / name).curve.validation[0][1])
    assert both == pytest.approx(np.mean(alone), abs=1e-5)
    one = meta_train(settings(tmp_path, tiny, steps=1, relative=False), tmp_path / "one").curve.validation[0][1]
    assert abs(one - both) > 1e-4


def test_what_is_kept_is_what_was_learned_less_the_instruction(
    engine: TorchEngine, renderers: dict[str, PromptRenderer], tiny: Path, tmp_path: Path
) -> None:
    kept = load_peft(meta_train(settings(tmp_path, tiny, patience=0), tmp_path / "out").prompt)
    assert kept.relative
    checkpoint = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    learned = checkpoint["best"]["prompt"] - written(engine, renderers["games"])
    np.testing.assert_allclose(kept.vectors, learned.numpy(), atol=1e-6)

    again = settings(tmp_path, tiny, steps=1, start=tmp_path / "out" / "prompt")
    best = meta_train(settings(tmp_path, tiny, patience=0), tmp_path / "out").curve.best[1]
    assert meta_train(again, tmp_path / "again").curve.validation[0][1] == pytest.approx(best, abs=1e-5)


def test_a_start_of_the_other_kind_is_refused(tiny: Path, tmp_path: Path) -> None:
    for relative, message in ((True, "relative to the written instructions"), (False, "one for all domains")):
        folder = tmp_path / f"start_{relative}"
        save_peft(SoftPrompt(vectors=np.ones((SOFT, 32)), relative=relative), folder)
        with pytest.raises(ConfigError, match=f"{message}, but relative is {not relative}"):
            meta_train(settings(tmp_path, tiny, start=folder, relative=not relative), tmp_path / "out")


def test_a_relative_prompt_is_read_beside_the_domains_instruction(engine: TorchEngine, tiny: Path) -> None:
    config = RerankerConfig(model=str(tiny), engine="torch", soft_tokens=16, scorer="likelihood")
    relative = SoftPrompt(vectors=offset().numpy(), relative=True)
    for domain, family in FAMILIES.items():
        reader = LLMScorer(config, domain, PromptBank(meta=relative), engine=engine)
        soft = reader.soft_prompt()
        assert soft is not None
        renderer = PromptRenderer.from_settings(PromptSettings(family=family), engine.tokenizer)
        np.testing.assert_allclose(soft.vectors, (written(engine, renderer) + offset()).numpy(), atol=1e-6)
        kept = reader.prompts_to_keep()
        np.testing.assert_array_equal(kept.domains[domain].vectors, soft.vectors)  # a bundle keeps what was read
        assert kept.meta is relative and not reader.prompts.domains


def test_the_shipped_prompt_is_for_its_model_and_its_length_alone() -> None:
    shipped = load_peft(SHIPPED)
    assert (shipped.base_model_id, shipped.relative, shipped.vectors.shape) == ("smollm2-135m", True, (16, 576))
    small = replace(shipped, vectors=shipped.vectors[:, :8], base_model_id="scripted")
    engine = ScriptedEngine(dim=8)
    assert engine.model.model_id == "scripted"

    def read(soft_tokens: int, prompt: SoftPrompt) -> bool:
        """Whether it is what is read."""
        config = RerankerConfig(engine="scripted", soft_tokens=soft_tokens, scorer="likelihood")
        reader = LLMScorer(config, "movies", PromptBank(shipped=prompt), engine=engine)
        soft = reader.soft_prompt()
        assert soft is not None
        alone = SoftPrompt.from_instruction(engine, reader.renderer.instruction_token_ids(), soft_tokens)
        same = bool(np.array_equal(soft.vectors, alone.vectors))
        if not same:
            np.testing.assert_allclose(soft.vectors, alone.vectors + prompt.vectors, atol=1e-6)
        return not same

    assert read(16, small)
    assert not read(8, small)
    assert not read(16, replace(small, base_model_id="smollm2-135m"))
    assert not read(16, shipped)  # another width


@pytest.mark.parametrize(
    ("scorer", "ships"),
    [("likelihood", True), ("likelihood+embedding", True), ("embedding", False), ("labels", False)],
)
def test_the_default_reads_behind_the_shipped_prompt_by_likelihood_alone(scorer: str, ships: bool) -> None:
    reranker = Reranker.from_pretrained("default", engine="torch", scorer=scorer)
    assert (reranker.llm_scorer.prompts.shipped is not None) == ships
    assert reranker.config.windows == RerankerConfig().windows  # your data did not teach it


@pytest.mark.parametrize("name", ["default", "untrained"])
def test_nothing_is_shipped_to_who_wants_none(name: str) -> None:
    reranker = Reranker.from_pretrained(name, engine="torch", scorer="likelihood")
    assert (reranker.llm_scorer.prompts.shipped is None) == (name == "untrained")


def test_a_run_from_before_there_were_relative_prompts_goes_on_as_it_was(tiny: Path, tmp_path: Path) -> None:
    meta_train(settings(tmp_path, tiny, relative=False), tmp_path / "out")
    path = tmp_path / "out" / "checkpoint.pt"
    kept = torch.load(path, weights_only=True)
    kept["config"] = json.dumps({name: one for name, one in json.loads(kept["config"]).items() if name != "relative"})
    torch.save(kept, path)
    with pytest.raises(ConfigError, match="made with other settings"):
        meta_train(settings(tmp_path, tiny), tmp_path / "out")
    assert not load_peft(meta_train(settings(tmp_path, tiny, relative=False), tmp_path / "out").prompt).relative


def test_the_judge_of_the_command_line_reads_what_fit_would() -> None:
    engine = ScriptedEngine(dim=8)
    small = SoftPrompt(vectors=np.ones((16, 8)), base_model_id="scripted", relative=True)
    for scoring, ships in (("likelihood", True), ("labels", False)):
        config = RerankerConfig(engine="scripted", scorer=scoring)
        alone, behind = (
            ScoreCache(engine, config, trained={"movies": one}).reader("movies").soft_prompt()
            for one in (Trained(), Trained(shipped=small))
        )
        assert alone is not None and behind is not None
        assert np.array_equal(behind.vectors, alone.vectors + ships)
    assert Trained.default("likelihood").sha256 != Trained.default("labels").sha256 == ""


def test_a_relative_prompt_is_no_sequence_yet() -> None:
    with pytest.raises(PromptError, match="relative to a written instruction"):
        SoftPrompt(vectors=np.ones((2, 3)), relative=True).as_sequence()
