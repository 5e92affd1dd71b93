"""The pipeline with the real SmolLM2-135M on a slice of ml-100k."""

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker, load_dataset
from reranker.cli.demo_run import run_demo
from reranker.engines.torch.engine import TorchEngine
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.scoring import LabelScorer, LikelihoodScorer, ScoringList
from reranker.soft_tokens.checkpoint import SHIPPED
from reranker.soft_tokens.peft_format import load_peft
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.soft_tokens.prompt_bank import PromptBank

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def engine():
    engine = TorchEngine("smollm2-135m", dtype="float32")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def data():
    whole = load_dataset("ml-100k")
    users = whole.interactions["user_id"].unique()[:60]
    few = whole.interactions[whole.interactions["user_id"].isin(users)]
    return Dataset(interactions=few, items=whole.items, domain="movies")


@pytest.mark.parametrize("scorer", [LikelihoodScorer, LabelScorer])
def test_order_in_does_not_change_scores_out(engine, data, scorer):
    renderer = PromptRenderer.from_settings(PromptSettings(family="movies"), engine.tokenizer, engine.model.max_length)
    items = data.items.head(14).to_dict("records")
    order = np.random.default_rng(0).permutation(10)
    first, second = (
        scorer(engine, renderer).score_components(  # each with no priors kept
            [ScoringList(history=items[10:], candidates=[items[place] for place in places])]
        )[0]
        for places in (np.arange(10), order)
    )
    assert len(np.unique(first[:, 0])) == 10
    np.testing.assert_array_equal(second, first[order])


def test_fit_save_load_rerank(engine, data, tmp_path):
    generator = PopularityGenerator().fit(data.interactions)
    reranker = Reranker.from_pretrained(
        "default",
        engine=engine,
        scorer="likelihood",
        dtype="float32",
        n_candidates=20,
        fit_users=10,
        windows=1,
        calibration_histories=2,
    ).fit(data, generator)
    lists = generator.recommend(data.interactions["user_id"].unique()[:2].tolist(), 8)
    ranked = reranker.rerank(lists, order="fused").to_frame()
    assert ranked["score"].nunique() == 16
    shuffled = reranker.rerank(lists.iloc[::-1], order="fused").to_frame()
    keys = ["user_id", "item_id"]
    pd.testing.assert_frame_equal(
        shuffled.set_index(keys).sort_index(), ranked.set_index(keys).sort_index(), check_exact=True
    )
    reranker.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle", engine=engine)
    pd.testing.assert_frame_equal(loaded.rerank(lists, order="fused").to_frame(), ranked, check_exact=True)

    instruction = SoftPrompt.from_instruction(engine, reranker.llm_scorer.renderer.instruction_token_ids(), 16)
    kept = PromptBank.load(tmp_path / "bundle" / "prompts").resolve("movies")
    np.testing.assert_array_equal(kept.vectors, load_peft(SHIPPED).beside(instruction).vectors)


@pytest.mark.slow  # minutes on busy cores; `make demo` runs the same code
@pytest.mark.parametrize("name", ["groceries", "ml-100k"])
def test_the_demo_writes_its_four_files(tmp_path, name):
    lines = []
    run_demo(load_dataset(name), tmp_path, lines.append, users=40, fit_users=12, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        "bundle",
        "candidates.parquet",
        "ranked.parquet",
        "summary.json",
    }
    summary = json.loads((tmp_path / "summary.json").read_text())
    for part in ("known_users", "new_items"):
        assert set(summary[part]["systems"]) == {"first stage", "baseline", "words", "llm"}
    assert summary["known_users"]["users"] == 40
    assert any("NDCG@10" in line for line in lines)
    ranked = pd.read_parquet(tmp_path / "ranked.parquet")
    assert ranked.groupby("user_id")["rank"].max().eq(50).all()
    assert Reranker.load(tmp_path / "bundle").user_ids
