"""Population stability by lists: values worked out by hand, shifts that are put in, and chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.drift import QUANTITIES, DriftDetector, DriftSettings, ListValues
from reranker.drift.detector import stability_index

LENGTH = 20


def lists(rng, n, shift=0.0, unknown=0.02, missing=()):
    """Lists whose candidates are alike: each list has a level of its own, as lists of one user have."""
    level = np.repeat(rng.normal(size=(n, 1)), LENGTH, axis=0)
    own = level + 0.3 * rng.normal(size=(n * LENGTH, len(QUANTITIES)))
    values = dict(zip(QUANTITIES, own.T, strict=True))
    values["popularity"] = values["popularity"] + shift
    values["unknown_users"] = np.repeat((rng.random(n) < unknown).astype(float), LENGTH)
    values["unknown_items"] = (rng.random(n * LENGTH) < unknown).astype(float)
    values |= {name: np.full(n * LENGTH, np.nan) for name in missing}
    return ListValues(values=values, list_index=np.repeat(np.arange(n), LENGTH))


def test_the_index_is_that_of_two_shares_worked_out_by_hand():
    now, before = np.array([0.9, 0.1]), np.array([0.99, 0.01])
    expected = (0.9 - 0.99) * np.log(0.9 / 0.99) + (0.1 - 0.01) * np.log(0.1 / 0.01)
    assert stability_index(now, before) == pytest.approx(expected) == pytest.approx(0.2158, abs=1e-4)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=12), st.integers(0, 10))
def test_the_index_is_0_for_equal_shares_and_the_same_both_ways(weights, seed):
    shares = np.array(weights) / np.sum(weights)
    others = np.random.default_rng(seed).permutation(shares)
    assert stability_index(shares, shares) == 0
    assert stability_index(shares, others) == pytest.approx(stability_index(others, shares))
    assert stability_index(shares, others) >= 0


def test_a_list_counts_once_however_long_it_is():
    """Nine lists of one candidate below the edge and one of 91 above it: a tenth of the lists, not half of the rows."""
    short = np.concatenate([np.zeros(9), np.ones(91)])
    index = np.concatenate([np.arange(9), np.full(91, 9)])
    shown = ListValues(values={"unknown_items": short}, list_index=index)
    found = DriftDetector(shown).compare(shown).shifts[0]
    assert found.mean == found.reference_mean == pytest.approx(0.1) and found.psi == 0


def test_false_alarms_are_as_rare_as_alpha_says():
    """On no shift, over many seeds: chance's floor holds by itself, and with the threshold there is none at all."""
    alarms, beyond = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = DriftDetector(lists(rng, 150), DriftSettings(alpha=0.1, threshold=1e-6)).compare(lists(rng, 100))
        alarms += bool(found.alarms)
        beyond += any(one.psi > 0.2 for one in found.alarms)
    assert 1 <= alarms <= 10 and beyond <= 1  # 4 expected; 11 or more: less than one time in a thousand


def test_a_shift_is_found_and_named():
    rng = np.random.default_rng(0)
    detector = DriftDetector(lists(rng, 300))
    found = detector.compare(lists(rng, 200, shift=1.0, unknown=0.3))
    assert {one.quantity for one in found.alarms} == {"popularity", "unknown_users", "unknown_items"}
    users = next(one for one in found.alarms if one.quantity == "unknown_users")
    assert users.reference_mean < 0.05 < 0.2 < users.mean


def test_a_large_index_of_few_lists_is_no_alarm():
    """Ten lists against forty: PSI above the threshold by chance alone, and the floor says so."""
    rng = np.random.default_rng(1)
    detector = DriftDetector(lists(rng, 40))
    found = detector.compare(lists(rng, 10))
    assert max(one.psi for one in found.shifts) > 0.2 and not found.alarms


def test_what_one_side_has_no_values_of_is_not_compared_and_named():
    rng = np.random.default_rng(2)
    detector = DriftDetector(lists(rng, 100, missing=["score"]))
    found = detector.compare(lists(rng, 100, missing=["covisit_last"]))
    assert set(found.not_compared) == {"score", "covisit_last"}
    assert {one.quantity for one in found.shifts} == QUANTITIES.keys() - {"score", "covisit_last"}


def test_parts_of_lists_and_joined_again_are_the_lists():
    every = lists(np.random.default_rng(3), 12)
    again = ListValues.joined([every.take(range(5)), every.take(range(5, 12))])
    np.testing.assert_array_equal(again.list_index, every.list_index)
    np.testing.assert_array_equal(again.values["popularity"], every.values["popularity"])
    assert every.take(np.array([7, 2])).n_lists == 2
    turned = every.take(np.array([7, 2])).values["popularity"]
    np.testing.assert_array_equal(turned[:LENGTH], every.values["popularity"][7 * LENGTH : 8 * LENGTH])
