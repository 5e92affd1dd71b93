"""Base adaptation on a tiny random model: what it reads, that it learns, and that a killed run goes on exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from reranker.config import RerankerConfig
from reranker.data.dataset import Dataset
from reranker.data.splits import without_newest
from reranker.engines.loading import HubTokenizer, load_causal_lm
from reranker.errors import ConfigError, DataError
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.training.lora.histories import DomainTexts, SequenceSampler
from reranker.training.lora.run import TunedBase, tune_base
from reranker.training.lora.trainer import BaseTuner, BaseTuningConfig
from tests.engines.models import save_tiny_model

TITLES = ["alpha", "beta", "gamma", "delta", "omega"]
CONFIG = BaseTuningConfig(rank=4, alpha=8, learning_rate=2e-2, warmup=2, steps=12, tokens_per_step=256)


@pytest.fixture
def data() -> Dataset:
    """Everyone goes through the same five items in the same order."""
    rows = [(f"u{user}", f"i{item}", 10 * user + item) for user in range(6) for item in range(5)]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(5)], "title": TITLES, "category": ["abc"] * 5})
    return Dataset(interactions=interactions, items=items, domain="generic")


@pytest.fixture
def renderer(tiny: Path) -> PromptRenderer:
    settings = PromptSettings(instruction=False, history_items=4, history_tokens=200)
    return PromptRenderer.from_settings(settings, HubTokenizer(tiny), 512)


def tuner(tiny: Path, data: Dataset, renderer: PromptRenderer, directory: Path, config: Any = CONFIG) -> BaseTuner:
    lm = load_causal_lm(tiny, "float32", "cpu")
    return BaseTuner(lm, SequenceSampler([DomainTexts(data=data, renderer=renderer)]), config, directory)


def test_a_sequence_is_the_served_prompt(data: Dataset, renderer: PromptRenderer) -> None:
    sampler = SequenceSampler([DomainTexts(data=data, renderer=renderer)], category_dropout=1.0)
    texts = {renderer.tokenizer.decode(one.tokens.token_ids.tolist()) for one in sampler.batch(0, 2000)}
    assert texts == {"Chosen before:" + "".join(f"\n- {title}" for title in TITLES) + "\n"}


def test_soft_tokens_are_read_but_not_predicted(data: Dataset, renderer: PromptRenderer) -> None:
    soft = SoftPrompt(vectors=np.ones((3, 32), dtype=np.float32)).as_sequence()
    domain = DomainTexts(data=data, renderer=renderer, soft_prompt=soft)
    one = SequenceSampler([domain]).batch(0, 1)[0]
    assert one.tokens.vector_positions.tolist() == [0, 1, 2]
    assert one.scored_from == 3


def test_draws_depend_on_seed_and_step_alone(data: Dataset, renderer: PromptRenderer) -> None:
    domain = DomainTexts(data=data, renderer=renderer)

    def ids(seed: int, step: int) -> list[list[int]]:
        return [one.tokens.token_ids.tolist() for one in SequenceSampler([domain], seed=seed).batch(step, 600)]

    assert ids(0, 3) == ids(0, 3)
    assert ids(0, 3) != ids(0, 4)
    assert ids(0, 3) != ids(1, 3)


def test_categories_are_dropped_at_the_stated_rate(data: Dataset, renderer: PromptRenderer) -> None:
    sampler = SequenceSampler([DomainTexts(data=data, renderer=renderer)], category_dropout=0.5)
    text = "".join(renderer.tokenizer.decode(one.tokens.token_ids.tolist()) for one in sampler.batch(0, 20000))
    shown = text.count("(abc)") / (text.count("\n-") * 4 / 5)  # four of five items are history
    assert 0.4 < shown < 0.6


def test_the_loss_falls(tiny: Path, data: Dataset, renderer: PromptRenderer, tmp_path: Path) -> None:
    one = tuner(tiny, data, renderer, tmp_path)
    one.run()
    assert one.curve.losses[-1] < 0.7 * one.curve.losses[0]


def test_an_interrupted_run_equals_an_uninterrupted_one(
    tiny: Path, data: Dataset, renderer: PromptRenderer, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"checkpoint_every": 5})
    whole = tuner(tiny, data, renderer, tmp_path / "whole", config)
    whole.run()

    class KilledError(Exception):
        pass

    class DyingSampler(SequenceSampler):
        def batch(self, step: int, tokens: int) -> Any:
            if step == 7:
                raise KilledError
            return super().batch(step, tokens)

    domain = DomainTexts(data=data, renderer=renderer)
    lm = load_causal_lm(tiny, "float32", "cpu")
    with pytest.raises(KilledError):
        BaseTuner(lm, DyingSampler([domain]), config, tmp_path / "cut").run()
    resumed = tuner(tiny, data, renderer, tmp_path / "cut", config)
    assert len(resumed.curve.losses) == 5
    resumed.run()
    assert resumed.curve.losses == whole.curve.losses


def test_sequences_that_are_written_ahead_are_the_same(
    tiny: Path, data: Dataset, renderer: PromptRenderer, tmp_path: Path
) -> None:
    alone = tuner(tiny, data, renderer, tmp_path / "alone")
    alone.run()
    sampler = SequenceSampler([DomainTexts(data=data, renderer=renderer)])
    ahead = BaseTuner(load_causal_lm(tiny, "float32", "cpu"), sampler, CONFIG, tmp_path / "ahead", workers=2)
    ahead.run()
    assert ahead.curve == alone.curve


def test_a_checkpoint_of_other_settings_is_refused(
    tiny: Path, data: Dataset, renderer: PromptRenderer, tmp_path: Path
) -> None:
    tuner(tiny, data, renderer, tmp_path).run()
    with pytest.raises(ConfigError, match="other settings"):
        tuner(tiny, data, renderer, tmp_path, CONFIG.model_copy(update={"seed": 1}))


def test_the_newest_interactions_are_left_out(data: Dataset) -> None:
    kept = without_newest(data, 2).interactions
    assert kept.groupby("user_id")["item_id"].apply(list).tolist() == [["i0", "i1", "i2"]] * 6


def test_no_history_to_learn_from(data: Dataset, renderer: PromptRenderer) -> None:
    lonely = Dataset(interactions=data.interactions.drop_duplicates("user_id"), items=data.items, domain="generic")
    with pytest.raises(DataError, match="no user has two interactions"):
        SequenceSampler([DomainTexts(data=lonely, renderer=renderer)])


def test_the_merged_model_says_what_the_adapter_says(tiny: Path, data: Dataset, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = tmp_path / "data"
    folder.mkdir()
    data.interactions.to_parquet(folder / "interactions.parquet")
    data.items.to_parquet(folder / "items.parquet")
    settings = RerankerConfig(model=str(tiny), soft_tokens=2)
    tuned = tune_base([("generic", str(folder))], tmp_path / "out", CONFIG, settings, hold_out=1, dtype="float32")
    ids = torch.arange(20)[None]
    adapted = PeftModel.from_pretrained(load_causal_lm(tiny, "float32", "cpu"), tuned.adapter)
    merged, plain = load_causal_lm(tuned.model, "float32", "cpu"), load_causal_lm(tiny, "float32", "cpu")
    with torch.inference_mode():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=0)
        assert (merged(ids).logits - plain(ids).logits).abs().max() > 0.1
    assert tuned.tokens >= CONFIG.steps * CONFIG.tokens_per_step
    assert HubTokenizer(tuned.model).encode("alpha") == HubTokenizer(tiny).encode("alpha")


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"train base settings: learning_rate: .* greater than 0; speed: "):
        BaseTuningConfig.from_mapping({"learning_rate": 0, "speed": 1})


def test_a_checkpoint_of_other_data_or_another_base_is_refused(tiny: Path, data: Dataset, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        titles = [f"{title} {name}" for title in data.items["title"]]
        data.interactions.to_parquet(tmp_path / name / "interactions.parquet")
        data.items.assign(title=titles).to_parquet(tmp_path / name / "items.parquet")
    reranker = RerankerConfig(model=str(tiny), soft_tokens=0)

    def tune(name: str, hold_out: int = 1, base: RerankerConfig = reranker) -> TunedBase:
        source = ("shop", str(tmp_path / name))
        return tune_base([source], tmp_path / "out", CONFIG, base, hold_out=hold_out, dtype="float32")

    first = tune("first")
    assert tune("first") == first  # done already
    with pytest.raises(ConfigError, match="other data or another base"):
        tune("second")
    with pytest.raises(ConfigError, match="other data or another base"):
        tune("first", hold_out=2)
    other = RerankerConfig(model=str(save_tiny_model(tmp_path / "other", seed=1)), soft_tokens=0)
    with pytest.raises(ConfigError, match="other data or another base"):
        tune("first", base=other)
