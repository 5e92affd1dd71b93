"""Texts that the same users chose: which pairs are drawn, what the loss is, and that states are drawn together."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from reranker.config import RerankerConfig
from reranker.engines import load_engine
from reranker.engines.causal_lm import HubTokenizer, load_causal_lm
from reranker.errors import ConfigError, DataError
from reranker.meta.base_tuning import BaseTuner, BaseTuningConfig
from reranker.meta.pairs import PairSampler
from reranker.meta.sequences import DomainTexts
from reranker.meta.tune import tune_base
from reranker.meta.tuning_losses import SharedChoices, Texts, TunedLM, contrast
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.scoring.space import unit
from reranker.tables import Dataset
from tests.engines.models import save_tiny_model

CONFIG = BaseTuningConfig(
    objective="shared_choice", rank=4, alpha=8, learning_rate=2e-2, warmup=2, steps=12, pairs_per_step=24, window=2
)
TASTES = {"sea": ["boat", "wave", "fish", "sand"], "sky": ["cloud", "wing", "star", "moon"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def data() -> Dataset:
    """Half of the users choose what belongs to the sea, half what belongs to the sky."""
    random = np.random.default_rng(0)
    rows = [
        (f"{taste}{user}", title, position)
        for taste, titles in TASTES.items()
        for user in range(8)
        for position, title in enumerate(random.permutation(titles))
    ]
    titles = [title for own in TASTES.values() for title in own]
    return Dataset(
        interactions=pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]),
        items=pd.DataFrame({"item_id": titles, "title": titles, "category": ["thing"] * len(titles)}),
        domain="generic",
    )


@pytest.fixture
def renderer(tiny: Path) -> PromptRenderer:
    return PromptRenderer.from_settings(PromptSettings(), HubTokenizer(tiny), 512)


def sampler(data: Dataset, renderer: PromptRenderer, **settings: int) -> PairSampler:
    return PairSampler([DomainTexts(data=data, renderer=renderer)], **{"pairs": 24, "window": 2, **settings})


def test_pairs_are_two_items_of_one_user_within_the_window(data: Dataset, renderer: PromptRenderer) -> None:
    near = set()
    for _, history in data.interactions.groupby("user_id")["item_id"]:
        titles = list(history)
        near |= {(one, other) for at, one in enumerate(titles) for other in titles[at + 1 : at + 3]}
    prompt = renderer.embedding(data.items.to_dict("records"))
    text_of = {
        tuple(candidate.sequence.token_ids): title
        for candidate, title in zip(prompt.request.candidates, data.items.item_id, strict=True)
    }
    drawn = set()
    for step in range(20):
        batch = sampler(data, renderer).batch(step)
        titles = [text_of[tuple(one.sequence.token_ids)] for one in batch.request.candidates]
        assert len(set(titles)) == len(titles)
        drawn |= {(titles[one], titles[other]) for one, other in zip(batch.left, batch.right, strict=True)}
    assert drawn <= near and len(drawn) > 0.9 * len(near)


def test_draws_depend_on_seed_and_step_alone(data: Dataset, renderer: PromptRenderer) -> None:
    def rows(seed: int, step: int) -> list[int]:
        return sampler(data, renderer, seed=seed).batch(step).left.tolist()

    assert rows(0, 3) == rows(0, 3)
    assert rows(0, 3) != rows(0, 4)
    assert rows(0, 3) != rows(1, 3)


def test_users_who_choose_one_item_again_and_again(data: Dataset, renderer: PromptRenderer) -> None:
    same = Dataset(interactions=data.interactions.assign(item_id="boat"), items=data.items, domain="generic")
    with pytest.raises(DataError, match="none of 24 drawn pairs has two different items"):
        sampler(same, renderer).batch(0)


def test_the_loss_by_hand() -> None:
    """Two pairs in the plane around their mean 0: cosines of 0.6, 0 and so on, at temperature 1/2."""
    states = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [-0.6, -0.8]])
    own, other = 0.6 / 0.5, -0.6 / 0.5
    expected = np.log(np.exp(own) + np.exp(other)) - own
    loss = contrast(states, np.array([0, 2]), np.array([1, 3]), 0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_text_does_not_count_against_its_own_pairs() -> None:
    """Of the pairs (0, 1), (0, 2), (1, 3), neither the right text of another pair that is one's own right text, nor the
    asked text itself is a wrong answer."""
    states = torch.eye(4) + 0.1
    vectors = unit((states - states.mean(0)).numpy()).astype(np.float64)
    cosines = vectors @ vectors.T
    # asked -> answers that count: the right one first
    rightward = [(0, [1, 2, 3]), (0, [2, 1, 3]), (1, [3, 2])]
    leftward = [(1, [0]), (2, [0, 1]), (3, [1, 0, 0])]

    def mean(asked: list[tuple[int, list[int]]]) -> float:
        return float(np.mean([np.log(np.exp(cosines[one, all_]).sum()) - cosines[one, all_[0]] for one, all_ in asked]))

    loss = contrast(states, np.array([0, 0, 1]), np.array([1, 2, 3]), 1.0)
    assert loss.item() == pytest.approx((mean(rightward) + mean(leftward)) / 2, abs=1e-6)


def test_states_are_those_of_the_read_out(tiny: Path, data: Dataset, renderer: PromptRenderer) -> None:
    lm = TunedLM(load_causal_lm(tiny, "float32", "cpu"))
    batch = sampler(data, renderer).batch(0)
    engine = load_engine("torch", tiny, dtype="float32")
    with torch.inference_mode():
        states = Texts(batch.request).states(lm).numpy()
    np.testing.assert_allclose(states, engine.span_states([batch.request])[0], atol=1e-5)


def test_gradients_are_those_of_the_loss_in_one_piece(tiny: Path, data: Dataset, renderer: PromptRenderer) -> None:
    batch = sampler(data, renderer).batch(0)

    raw = load_causal_lm(tiny, "float32", "cpu").requires_grad_(True)
    small_parts = TunedLM(raw)
    small_parts.batch_tokens = 16
    loss, tokens = SharedChoices(sampler(data, renderer), 0.1).accumulate(small_parts, 0)
    in_parts = [one.grad.clone() for one in raw.parameters() if one.grad is not None]
    raw.zero_grad()
    whole = contrast(Texts(batch.request).states(TunedLM(raw)), batch.left, batch.right, 0.1)
    torch.autograd.backward(whole)
    at_once = [one.grad for one in raw.parameters() if one.grad is not None]
    assert loss == pytest.approx(whole.item(), abs=1e-5)
    assert tokens == sum(len(batch.request.prefix) + len(one.sequence) for one in batch.request.candidates)
    assert len(in_parts) == len(at_once) > 10
    for one, other in zip(in_parts, at_once, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_texts_of_one_taste_come_to_lie_together(
    tiny: Path, data: Dataset, renderer: PromptRenderer, tmp_path: Path
) -> None:
    request = renderer.embedding(data.items.to_dict("records")).request

    def likeness(folder: Path) -> float:
        states = load_engine("torch", folder, dtype="float32").span_states([request])[0]
        cosines = unit(states - states.mean(axis=0)) @ unit(states - states.mean(axis=0)).T
        return float(cosines[:4, :4].mean() + cosines[4:, 4:].mean() - 2 * cosines[:4, 4:].mean())

    folder = tmp_path / "data"
    folder.mkdir()
    data.interactions.to_parquet(folder / "interactions.parquet")
    data.items.to_parquet(folder / "items.parquet")
    config, served = CONFIG.model_copy(update={"steps": 60}), RerankerConfig(model=str(tiny))
    tuned = tune_base([("generic", str(folder))], tmp_path / "out", config, served, hold_out=0, dtype="float32")
    assert tuned.last_loss < tuned.first_loss and tuned.unit == "pair"
    assert likeness(tuned.model) > likeness(tiny) + 0.5


def test_an_interrupted_run_equals_an_uninterrupted_one(
    tiny: Path, data: Dataset, renderer: PromptRenderer, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"steps": 6, "checkpoint_every": 2})

    def tuner(directory: Path, loss: SharedChoices) -> BaseTuner:
        return BaseTuner(load_causal_lm(tiny, "float32", "cpu"), loss, config, directory)

    class KilledError(Exception):
        pass

    class Dying(SharedChoices):
        def accumulate(self, lm: TunedLM, step: int) -> tuple[float, int]:
            if step == 5:
                raise KilledError
            return super().accumulate(lm, step)

    pairs = sampler(data, renderer)
    whole = tuner(tmp_path / "whole", SharedChoices(pairs, 0.05))
    whole.run()
    with pytest.raises(KilledError):
        tuner(tmp_path / "cut", Dying(pairs, 0.05)).run()
    resumed = tuner(tmp_path / "cut", SharedChoices(pairs, 0.05))
    assert len(resumed.curve.losses) == 4
    resumed.run()
    assert resumed.curve.losses == whole.curve.losses


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tune-base settings: objective: .*'shared_choice'"):
        BaseTuningConfig.from_mapping({"objective": "sharing"})
