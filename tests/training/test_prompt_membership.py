"""Whether a prompt tells whose lists it was trained on: by a tiny model that can learn them by heart, and by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from candidate_gen import PopularityGenerator
from eval.prompt_membership import attacked_prompts, auc_interval, drawn_lists
from reranker.engines.loading import HubTokenizer
from reranker.errors import DataError
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.training.tasks import TaskDomain
from reranker.training.torch_loss import TorchLoss
from tests.training.toys import circle

SETTINGS = PromptSettings(instruction=False, history_items=3, history_tokens=100)


@pytest.fixture(scope="module")
def renderer(tiny):
    return PromptRenderer.from_settings(SETTINGS, HubTokenizer(tiny), 512)


def test_ten_times_as_many_passes_are_found_out(engine, renderer):
    """Each user's choice is drawn anew, so that nothing but heart's knowledge tells it."""
    domain = TaskDomain.build(circle(), PopularityGenerator(), renderer, n_candidates=6, hold_out=1, min_history=1)
    rng = np.random.default_rng(0)
    lists = [replace(one, chosen=rng.permutation(one.chosen), baseline=0 * one.baseline) for one in domain.episodes]
    members, others = lists[:6], lists[6:18]
    reader = TorchLoss(engine.packed_lm, {domain.name: renderer}, (0.3, 0.5, 1.0), baseline=False)
    start = 0.1 * torch.randn((8, 32), generator=torch.Generator().manual_seed(0))
    few, many = attacked_prompts(reader, start, members, others, [2, 60], rate=0.05, lists_per_step=6)
    assert (few.passes, many.passes) == (2, 60) and many.members < few.members
    assert few.by_loss.low < 0.5 < few.by_loss.high  # who has an easy list is not told from who was read
    assert many.by_loss.low > 0.5 and many.by_gain.mean > 0.9 > few.by_loss.mean
    assert "60 passes: loss" in str(many) and "AUC by gain" in str(many)


def test_the_interval_is_that_of_members_and_others():
    inside = np.array([False, True, False, True, False, True])
    found = auc_interval(np.array([0.0, 1.0, 0.5, 2.0, 1.5, 3.0]), inside)
    assert found.mean == pytest.approx(8 / 9) and found.low < 8 / 9 <= found.high == 1.0 and found.n == 6
    apart = auc_interval(np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]), inside)
    assert (apart.mean, apart.low, apart.high) == (1.0, 1.0, 1.0)


def test_members_and_others_are_other_users(renderer):
    members, others = drawn_lists(circle(), renderer, 5, negatives=3)
    assert len(members) == len(others) == 5 and len({one.user_id for one in [*members, *others]}) == 10
    assert all(len(one.candidates) <= 4 for one in members)
    with pytest.raises(DataError, match="are needed"):
        drawn_lists(circle(), renderer, 5000, negatives=3)


def test_one_member_is_too_few(renderer):
    with pytest.raises(DataError, match="two of each are needed"):
        next(attacked_prompts(None, torch.zeros((1, 1)), [None], [None, None], [1]))
