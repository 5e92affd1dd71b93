"""Membership inference: a head that learned by heart gives its users away, one of many users does not."""

import numpy as np
import pytest

from reranker.errors import DataError
from reranker.evaluation.membership import membership_auc
from reranker.fusion import Choices


def choices(users, features, seed=0, length=10):
    """Lists whose choices nothing explains: whatever a head finds in them is learned by heart."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros((users, length), dtype=bool)
    chosen[np.arange(users), rng.integers(length, size=users)] = True
    return Choices(
        features=rng.standard_normal((users * length, features)),
        list_index=np.repeat(np.arange(users), length),
        chosen=chosen.ravel(),
        n_relevant=np.ones(users, dtype=np.int64),
        n_known=np.full(users, 5),
        users=[f"u{user}" for user in range(users)],
        first_stage_rank=np.tile(np.arange(1, length + 1), users),
    )


def test_many_weights_on_few_users_give_them_away():
    found = membership_auc(choices(users=20, features=60), l2=0.1, repeats=5)
    assert found.mean > 0.95 and found.n == 20


def test_few_weights_on_many_users_do_not():
    found = membership_auc(choices(users=1500, features=3), repeats=8)
    assert 0.47 < found.mean < 0.53 and found.low < 0.5 < found.high + 0.03


def test_too_few_users_are_refused():
    with pytest.raises(DataError, match="needs four users with a choice in their lists, got 3"):
        membership_auc(choices(users=3, features=2))
