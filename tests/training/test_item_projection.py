"""Learning the projector of item tokens on a tiny random model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from candidate_gen import ALSGenerator, PopularityGenerator
from reranker import Reranker
from reranker.data.dataset import Dataset
from reranker.data.table_io import write_table
from reranker.engines.loading import HubTokenizer, load_causal_lm
from reranker.engines.torch.engine import TorchEngine
from reranker.engines.torch.packed_lm import PackedLM
from reranker.errors import ConfigError, DataError
from reranker.fusion import EvidenceModel
from reranker.pipeline.domain import with_newer_items
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.scoring import LikelihoodScoring, ScoringList
from reranker.soft_tokens import WEIGHTS, ContextMap, ItemTokens, VectorTable, load_item_tokens
from reranker.soft_tokens.peft_format import load_peft, save_peft
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.training.algorithms import backward
from reranker.training.cavia import ContextReader, context_leaves
from reranker.training.config import DomainSource, MetaConfig
from reranker.training.item_projection import projector_leaves
from reranker.training.objectives import conditional_logit
from reranker.training.run import meta_train
from reranker.training.tasks import Episode, TaskDomain, TaskSampler
from reranker.training.torch_loss import TorchLoss
from reranker.training.trainer import MetaTrainer

DIM = 32
ITEMS = [f"i{number}" for number in range(8)]
TITLES = ["alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa", "theta"]
SETTINGS = PromptSettings(instruction=False, history_items=3, history_tokens=100)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Everyone goes round the same items in the same order, from a place of their own."""
    rows = [(f"u{user}", f"i{(user + step) % 8}", 10 * user + step) for user in range(24) for step in range(6)]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    items = pd.DataFrame({"item_id": ITEMS, "title": TITLES, "category": ["c"] * 8})
    return Dataset(interactions=interactions, items=items, domain="generic")


@pytest.fixture(scope="module")
def domain(tiny: Path, data: Dataset) -> TaskDomain:
    renderer = PromptRenderer.from_settings(SETTINGS, HubTokenizer(tiny), 512)
    return TaskDomain.build(data, PopularityGenerator(), renderer, n_candidates=6, rounds=2, hold_out=1, min_history=1)


@pytest.fixture
def tokens() -> ItemTokens:
    """A projector where every part matters, over a table that misses two items."""
    random = np.random.default_rng(2)
    return ItemTokens(
        table=VectorTable.build(ITEMS[:6], random.standard_normal((6, 5)).astype(np.float32)),
        inner=0.3 * random.standard_normal((5, 4)),
        inner_bias=0.3 * random.standard_normal(4),
        outer=0.3 * random.standard_normal((4, DIM)),
        outer_bias=0.3 * random.standard_normal(DIM),
        domain="generic",
        candidates=True,
    )


def packed(tiny: Path, dtype: torch.dtype = torch.float32) -> PackedLM:
    return PackedLM(load_causal_lm(tiny, "float32", "cpu").to(dtype), torch.device("cpu"))


def reader(lm: PackedLM, domain: TaskDomain, tokens: ItemTokens, **options: Any) -> TorchLoss:
    renderers = {domain.name: domain.renderer}
    return TorchLoss(lm, renderers, conditional_logit, (1.0, 0.5, -1.0), item_tokens={domain.name: tokens}, **options)


def prompt() -> torch.Tensor:
    return 0.1 * torch.randn((2, DIM), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("candidates", [True, False])
def test_lists_are_read_as_serving_reads_them(
    tiny: Path, domain: TaskDomain, tokens: ItemTokens, candidates: bool
) -> None:
    tokens = replace(tokens, candidates=candidates)
    lm = packed(tiny)
    values = {"prompt": prompt(), **projector_leaves({domain.name: tokens}, lm.device)}
    soft = SoftPrompt(vectors=prompt().numpy()).as_sequence()
    scoring = LikelihoodScoring(TorchEngine(tiny, dtype="float32", device="cpu"), domain.renderer)
    told = 0
    for part in reader(lm, domain, tokens).parts(values, domain.episodes[:8]):
        lists = [
            ScoringList(
                history=one.history,
                candidates=one.candidates,
                soft_prompt=soft,
                history_vectors=tokens.before_history(one.history_ids),
                candidate_vectors=tokens.before_candidates(one.candidate_ids),
            )
            for one in part.episodes
        ]
        told += sum(len(one.candidate_vectors or ()) for one in lists)
        for served, trained in zip(scoring.score_components(lists), part.components, strict=True):
            np.testing.assert_allclose(trained.detach().numpy(), served, atol=1e-4)
    assert (told > 0) == candidates


def test_the_gradient_is_that_of_finite_differences(tiny: Path, domain: TaskDomain, tokens: ItemTokens) -> None:
    lm = packed(tiny, torch.float64)
    loss = reader(lm, domain, tokens, title_weight=0.3)
    leaves = {name: one.double() for name, one in projector_leaves({domain.name: tokens}, lm.device).items()}
    values = {"prompt": prompt().double(), **{name: one.requires_grad_() for name, one in leaves.items()}}
    backward(loss, values, domain.episodes[:3])
    generator = torch.Generator().manual_seed(1)
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        direction = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
        expected = float((leaf.grad * direction).sum())

        def total(step: float, name: str = name, direction: torch.Tensor = direction) -> float:
            moved = {**values, name: leaves[name].detach() + step * direction}
            with torch.no_grad():
                return sum(part.loss.item() for part in loss.parts(moved, domain.episodes[:3])) / 3

        # Fourth-order central differences: the model's norms compute in float32.
        near, far = (total(step) - total(-step) for step in (1e-3, 2e-3))
        assert abs(expected) > 1e-2, name
        assert expected == pytest.approx((8 * near - far) / 12e-3, rel=1e-2, abs=1e-3), name


@pytest.mark.parametrize("algorithm", ["pooled", "cavia"])
def test_the_projector_learns_and_the_rest_stays(
    tiny: Path, domain: TaskDomain, tokens: ItemTokens, algorithm: str, tmp_path: Path
) -> None:
    lm = packed(tiny)
    lists = reader(lm, domain, tokens, evidence=False)
    projector = projector_leaves({domain.name: tokens}, lm.device)
    contexts, others = None, {}
    if algorithm == "cavia":
        random = np.random.default_rng(1)
        found = ContextMap(
            base=0.1 * random.standard_normal((2, DIM)),
            directions=0.1 * random.standard_normal((3, 2, DIM)),
            amortise=0.1 * random.standard_normal((DIM + 1, 3)),
            rates=np.array([0.1, 0.5, 1.0]),
            log_shrinkage=np.zeros(1),
        )
        contexts = ContextReader(lists, lm, {domain.name: domain.renderer}, 1)
        others = context_leaves(found, lm.device)
    config = MetaConfig.model_validate(
        {
            "domains": (DomainSource(name="generic", data="unused"),),
            "algorithm": algorithm,
            "start": tmp_path,
            "item_tokens": "both",
            "evidence": False,
            "steps": 8,
            "first_fit_lists": 16,
            "lists_per_step": 12,
            "learning_rate": 0.05,
            "warmup": 0,
            "refit_every": 0,
            "coefficients": (1.0, 0.5, -1.0),
            "validate_every": 4,
            "clip": 100.0,
        }
    )
    trainer = MetaTrainer(
        lists, TaskSampler([domain]), list(TaskSampler([domain]).fixed(12)), prompt(), config, tmp_path / "run",
        contexts, {**others, **projector}, {"prompt", *others},
    )  # fmt: skip
    learned = trainer.run()
    assert torch.equal(learned, prompt())
    for name, leaf in {**others, **projector}.items():
        assert torch.equal(trainer.values[name], leaf) == (name in others), name
    assert trainer.curve.best[1] < 0.9 * trainer.curve.validation[0][1]


class Killed(TaskSampler):
    """Draws for steps 0, 1 and 2, and no further."""

    def batch(self, step: int, n: int) -> list[Episode]:
        if step > 2:
            raise KeyboardInterrupt
        return super().batch(step, n)


def test_an_interrupted_run_equals_an_uninterrupted_one(
    tiny: Path, domain: TaskDomain, tokens: ItemTokens, tmp_path: Path
) -> None:
    config = MetaConfig.model_validate(
        {
            "domains": (DomainSource(name="generic", data="unused"),),
            "item_tokens": "both",
            "steps": 6,
            "first_fit_lists": 16,
            "lists_per_step": 4,
            "learning_rate": 0.05,
            "refit_every": 3,
            "checkpoint_every": 2,
        }
    )

    def trainer(sampler: TaskSampler, folder: str) -> MetaTrainer:
        lists = reader(packed(tiny), domain, tokens)
        validation = list(TaskSampler([domain]).fixed(4))
        leaves = projector_leaves({domain.name: tokens}, torch.device("cpu"))
        return MetaTrainer(
            lists, sampler, validation, prompt(), config, tmp_path / folder, leaves=leaves, fixed={"prompt"}
        )

    whole = trainer(TaskSampler([domain]), "whole")
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        trainer(Killed([domain]), "broken").run()
    again = trainer(TaskSampler([domain]), "broken")
    assert len(again.curve.losses) == 2
    again.run()
    assert again.curve == whole.curve
    for name, value in whole.values.items():
        assert torch.equal(again.values[name], value), name


def test_vectors_know_of_no_choice_that_is_replayed(data: Dataset, tiny: Path) -> None:
    """An item that appears for the first time among the replayed choices has no vector in the domain's space."""
    late = pd.DataFrame({"user_id": ["u3", "u3"], "item_id": ["new", "i1"], "timestamp": [900, 901]})
    items = pd.concat([data.items, pd.DataFrame({"item_id": ["new"], "title": ["new"], "category": ["c"]})])
    world = Dataset(interactions=pd.concat([data.interactions, late]), items=items, domain="generic")
    renderer = PromptRenderer.from_settings(SETTINGS, HubTokenizer(tiny), 512)
    built = TaskDomain.build(
        world, PopularityGenerator(), renderer, n_candidates=6, rounds=2, hold_out=0, min_history=1
    )
    assert "new" not in built.space.item_ids
    assert set(built.space.item_ids) == set(ITEMS)


def write_domain(data: Dataset, folder: Path) -> str:
    write_table(data.interactions, folder / "interactions.parquet")
    write_table(data.items, folder / "items.parquet")
    return str(folder)


def settings(tiny: Path, source: dict[str, Any], **changes: Any) -> MetaConfig:
    return MetaConfig.from_mapping(
        {
            "domains": [{"name": "generic", **source}],
            "reranker": {"model": str(tiny), "soft_tokens": 2, "prompt": {"instruction": False, "history_items": 3}},
            "item_tokens": "both",
            "item_token_hidden": 4,
            "steps": 2,
            "first_fit_lists": 16,
            "warmup": 0,
            "learning_rate": 0.05,
            "lists_per_step": 4,
            "hold_out": 1,
            "min_history": 1,
            "n_candidates": 6,
            "dtype": "float32",
            **changes,
        }
    )


@pytest.mark.parametrize("own_table", [False, True])
def test_from_tables_to_a_reranker(tiny: Path, data: Dataset, own_table: bool, tmp_path: Path) -> None:
    """Train behind a given prompt, fit, save, load: the same tokens all the way."""
    source: dict[str, Any] = {"data": write_domain(data, tmp_path / "data")}
    clip = pd.DataFrame({"item_id": ITEMS[:6], "vector": np.random.default_rng(0).standard_normal((6, 5)).tolist()})
    if own_table:
        write_table(clip, tmp_path / "clip.parquet")
        source["item_vectors"] = str(tmp_path / "clip.parquet")
    start = SoftPrompt(vectors=prompt().numpy())
    save_peft(start, tmp_path / "start")
    trained = meta_train(settings(tiny, source, start=str(tmp_path / "start")), tmp_path / "out")
    np.testing.assert_array_equal(load_peft(trained.prompt).vectors, start.vectors)
    tokens = load_item_tokens(trained.prompt)["generic"]
    assert (len(tokens.table), tokens.table.dim, tokens.inner.shape[1]) == ((6, 5, 4) if own_table else (8, 64, 4))
    assert tokens.outer.any()
    assert tokens.base_model_sha256

    reranker = Reranker.from_pretrained(
        trained.prompt, engine="torch", model=str(tiny), dtype="float32", soft_tokens=2, n_candidates=6, min_history=1,
        prompt={"instruction": False, "history_items": 3},
    )  # fmt: skip
    generator = PopularityGenerator().fit(data.interactions)
    reranker.fit(data, generator)
    candidates = generator.recommend(["u3", "new_user"], 6)
    with_tokens = reranker.score_all(candidates).to_frame()
    reranker.save(tmp_path / "bundle")
    again = Reranker.load(tmp_path / "bundle")
    kept = again.reader.item_tokens
    assert kept is not None and reranker.reader.item_tokens is not None
    assert kept.sha256 == reranker.reader.item_tokens.sha256
    pd.testing.assert_frame_equal(again.score_all(candidates).to_frame(), with_tokens)
    seen = again.inspect(generator.recommend(["u3"], 6))
    assert [len(one.sequence.vectors) for one in seen.prompt.request.candidates] == [
        int(item in kept.table.item_ids) for item in generator.recommend(["u3"], 6)["item_id"]
    ]
    reranker.reader.item_tokens = None
    assert np.abs(reranker.score_all(candidates).to_frame()["llm"] - with_tokens["llm"]).max() > 1e-4

    if own_table:
        more = pd.concat([clip, pd.DataFrame({"item_id": ["i6"], "vector": [[1.0, 0, 0, 0, 0]]})])
        again.fit(data, generator, item_vectors=more)
        assert again.reader.item_tokens is not None
        assert list(again.reader.item_tokens.table.item_ids) == ITEMS[:7]
        with pytest.raises(DataError, match="another space"):
            again.fit(data, generator, item_vectors=clip.assign(vector=clip["vector"].tolist()[::-1]))


def test_items_that_came_later_get_the_tokens_of_their_rotated_vectors(
    data: Dataset, tokens: ItemTokens, caplog: pytest.LogCaptureFixture
) -> None:
    """Tokens over a collaborative space meet another fit of it with one item more; other spaces add nothing."""
    generator = ALSGenerator(factors=3).fit(data.interactions)
    space = VectorTable.build(ITEMS, generator.item_factors(ITEMS))
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0].astype(np.float32)
    trained = VectorTable.build(ITEMS[:7], space.vectors[:7] @ turn)
    known = replace(tokens, table=trained, inner=tokens.inner[:3])
    evidence = EvidenceModel.fit(data.interactions, data.items, ITEMS, space.vectors)
    grown = with_newer_items(known, evidence)
    assert grown is not None
    assert list(grown.table.item_ids) == ITEMS
    np.testing.assert_array_equal(grown.table.vectors[:7], trained.vectors)
    np.testing.assert_allclose(grown.table.vectors[7], space.vectors[7] @ turn, atol=1e-4)
    far = np.random.default_rng(5).standard_normal((8, 3)).astype(np.float32)
    other = EvidenceModel.fit(data.interactions, data.items, ITEMS, far)
    assert with_newer_items(known, other) is known
    assert "another space" in caplog.text
    clip = replace(known, table=replace(trained, name="clip.parquet"))
    assert with_newer_items(clip, evidence) is clip
    assert with_newer_items(None, evidence) is None


def test_vectors_that_nothing_was_trained_on_are_refused(data: Dataset) -> None:
    reranker = Reranker.from_pretrained("default", engine="scripted")
    vectors = pd.DataFrame({"item_id": ITEMS, "x": range(8)})
    with pytest.raises(ConfigError, match="run `reranker train prompt` with item_tokens"):
        reranker.fit(data, PopularityGenerator().fit(data.interactions), item_vectors=vectors)


def test_a_table_of_other_items_is_refused(tiny: Path, data: Dataset, tmp_path: Path) -> None:
    write_table(pd.DataFrame({"item_id": [1, 2], "x": [1.0, 2.0]}), tmp_path / "clip.parquet")
    source = {"data": write_domain(data, tmp_path / "data"), "item_vectors": str(tmp_path / "clip.parquet")}
    with pytest.raises(DataError, match="none of the 8 items"):
        meta_train(settings(tiny, source), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": [{"name": "other", "data": "x"}]}, "leave held_out empty"),
        ({"algorithm": "reptile"}, "learned by algorithm 'pooled'"),
        ({"algorithm": "cavia"}, "with a trained start"),
        ({"pretrain_steps": 2}, "pretrain_steps"),
        ({"item_tokens": "none", "domains": [{"name": "d", "data": "x", "item_vectors": "v.csv"}]}, "item_tokens is"),
        ({"item_tokens": "yes"}, "item_tokens"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    values = {"domains": [{"name": "shop", "data": "somewhere"}], "item_tokens": "both", **change}
    with pytest.raises(ConfigError, match=message):
        MetaConfig.from_mapping(values)


def test_every_weight_is_learned(tiny: Path, domain: TaskDomain, tokens: ItemTokens) -> None:
    lm = packed(tiny)
    leaves = {name: one.requires_grad_() for name, one in projector_leaves({domain.name: tokens}, lm.device).items()}
    backward(reader(lm, domain, tokens), {"prompt": prompt(), **leaves}, domain.episodes[:4])
    assert len(leaves) == len(WEIGHTS)
    for name, leaf in leaves.items():
        assert leaf.grad is not None and leaf.grad.abs().max() > 0, name
