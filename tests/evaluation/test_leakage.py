"""Every leak is made on purpose, and must be caught by name; the clean case next to it must pass."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker.data.splits import cold_items, leave_last_k
from reranker.errors import DataError
from reranker.evaluation.leakage import check_fitting, check_fitting_pairs, check_fold, check_generator, check_priors
from reranker.pipeline.lists import propose
from tests.evaluation.toys import lists_of


@pytest.fixture
def fold(chain):
    return leave_last_k(chain)


def with_targets(table, fold):
    return pd.concat([table, fold.held_out.head(2)], ignore_index=True)


def test_clean_folds_pass(fold, chain):
    check_fold(fold)
    check_fold(fold.validation())
    check_fold(cold_items(chain))


def test_training_part_with_a_target(fold):
    with pytest.raises(DataError, match=r"leak 'generator_saw_target'.*2 \(user, item\) pairs.*'u0', 'i5'"):
        check_fold(replace(fold, train=with_targets(fold.train, fold)))


def test_history_with_a_target(fold):
    with pytest.raises(DataError, match="leak 'history_holds_target'"):
        check_fold(replace(fold, history=with_targets(fold.history, fold)))


def test_training_part_with_a_cold_item(chain):
    fold = cold_items(chain)
    leaked = pd.DataFrame({"user_id": ["new_user"], "item_id": [fold.cold_items[0]]})
    with pytest.raises(DataError, match=r"leak 'generator_saw_target'.*cold items"):
        check_fold(replace(fold, train=pd.concat([fold.train, leaked])))


def test_generator_fitted_on_everything(fold, chain):
    check_generator(PopularityGenerator().fit(fold.train), fold)
    with pytest.raises(DataError, match=r"leak 'generator_saw_target'.*known to candidate generator 'popularity'"):
        check_generator(PopularityGenerator().fit(chain.interactions), fold)


def test_fusion_fitted_on_the_test_lists(fold):
    generator = PopularityGenerator()
    check_fitting([propose(fold.validation(), generator, 5)], fold)
    with pytest.raises(DataError, match="leak 'fitted_on_test'"):
        check_fitting([propose(fold, generator, 5)], fold)


def test_fusion_fitted_elsewhere_on_test_pairs(fold):
    check_fitting_pairs(fold.train, fold)
    with pytest.raises(DataError, match=r"leak 'fitted_on_test'.*: 1 \("):
        check_fitting_pairs(fold.held_out.tail(1), fold)


def test_prior_that_saw_the_user():
    lists = lists_of({"a": "x y", "b": "y x"}, {"a": "x", "b": "x"})
    check_priors(lists, np.array([-3.0, -5.0, -5.0 + 1e-6, -3.0]))
    with pytest.raises(DataError, match=r"leak 'prior_saw_user'.*'x'"):
        check_priors(lists, np.array([-3.0, -5.0, -5.0, -2.5]))


def test_priors_must_be_numbers():
    lists = lists_of({"a": "x y"}, {"a": "x"})
    with pytest.raises(DataError, match="2 finite values"):
        check_priors(lists, np.array([-3.0, np.nan]))
