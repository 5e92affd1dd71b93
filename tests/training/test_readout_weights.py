"""Coefficients that are fitted beside a prompt, and losses under those of other lists."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from reranker.training.scorer_weights import cross_fitted_losses, fit_coefficients
from reranker.training.tasks import Episode
from reranker.training.torch_loss import Part, list_losses

AROUND = (0.15, 0.5, -0.15)


def part_of(lists: int, weights: tuple[float, float, float], seed: int, informed: bool = True) -> Part:
    """Lists of five whose choice goes by `weights` of what was read of them, or by nothing."""
    random = np.random.default_rng(seed)
    components, episodes = [], []
    for number in range(lists):
        read = random.normal(size=(5, 3))
        odds = np.exp(read @ weights) if informed else np.ones(5)
        chosen = np.arange(5) == random.choice(5, p=odds / odds.sum())
        components.append(torch.from_numpy(read))
        episodes.append(
            Episode(
                domain="any",
                user_id=number,
                history=(),
                candidates=(),
                candidate_ids=(),
                chosen=chosen,
                baseline=np.zeros(5),
            )
        )
    return Part(loss=torch.zeros(()), components=components, episodes=episodes)


def losses(parts: list[Part]) -> torch.Tensor:
    return cross_fitted_losses(parts, AROUND, baseline=False)


def test_the_fit_finds_the_weights_that_choices_went_by() -> None:
    part = part_of(3000, (1.0, -2.0, 0.5), 0)
    read = [
        {"components": one, "baseline": torch.zeros(5), "chosen": torch.from_numpy(episode.chosen)}
        for one, episode in zip(part.components, part.episodes, strict=True)
    ]
    assert fit_coefficients(read, AROUND, baseline=False) == pytest.approx((1.0, -2.0, 0.5), abs=0.15)


def test_a_reading_is_worth_what_it_tells_whatever_coefficients_it_takes() -> None:
    against = part_of(200, (-1.0, -2.0, 0.5), 1)  # the opposite of AROUND
    kept = list_losses(against.components, against.episodes, AROUND, baseline=False)
    assert kept.mean() > np.log(5) > losses([against]).mean() + 0.5


def test_no_list_is_judged_by_coefficients_that_it_taught() -> None:
    """What tells nothing is no better than chance, however few lists there are to learn by heart."""
    silent = torch.cat([losses([part_of(6, (0, 0, 0), seed, informed=False)]) for seed in range(60)])
    assert silent.mean() > np.log(5)


def test_losses_come_in_the_order_of_the_parts_and_do_not_depend_on_where_these_are_cut() -> None:
    whole = part_of(9, (1.0, 0.0, 0.0), 2)
    cut = [
        Part(loss=torch.zeros(()), components=whole.components[rows], episodes=whole.episodes[rows])
        for rows in (slice(0, 4), slice(4, 9))
    ]
    torch.testing.assert_close(losses(cut), losses([whole]), rtol=0, atol=0)


def test_a_list_has_the_same_loss_in_whatever_order_lists_were_read() -> None:
    whole = part_of(30, (1.0, 0.0, 0.0), 4)
    order = np.random.default_rng(1).permutation(30)
    mixed = Part(
        loss=torch.zeros(()),
        components=[whole.components[number] for number in order],
        episodes=[whole.episodes[number] for number in order],
    )
    torch.testing.assert_close(losses([mixed]), losses([whole])[torch.from_numpy(order)])


def test_a_single_list_has_the_coefficients_that_the_ridge_pulls_to() -> None:
    one = part_of(1, (1.0, 0.0, 0.0), 3)
    expected = list_losses(one.components, one.episodes, AROUND, baseline=False)
    torch.testing.assert_close(losses([one]), expected)
