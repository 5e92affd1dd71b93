import numpy as np
import pytest

from reranker.errors import DataError
from reranker.utils.statistics import bootstrap_means, mean_interval


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = mean_interval(rng.exponential(1.0, 80), seed=trial, resamples=500)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.98


def test_width_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).standard_normal(1000)
    interval = mean_interval(values)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(1000), rel=0.08)
    assert interval.mean == pytest.approx(values.mean())


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(2).random(50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert not np.array_equal(bootstrap_means(values, seed=3), bootstrap_means(values, seed=4))


def test_constant_differences_have_no_width() -> None:
    interval = mean_interval(np.full(10, 0.5))
    assert (interval.low, interval.high) == pytest.approx((0.5, 0.5))


def test_one_user_says_nothing_of_others() -> None:
    interval = mean_interval(np.array([0.5]))
    assert interval.mean == 0.5 and np.isnan(interval.low)


def test_nobody_is_an_error() -> None:
    with pytest.raises(DataError, match="no user"):
        mean_interval(np.zeros(0))


@pytest.mark.parametrize("users", [7, 6000])  # draws for few are kept, those for many are not
def test_draws_are_the_same_whoever_asked_before(users) -> None:
    values = np.random.default_rng(5).random((2, users))
    drawn = np.random.default_rng(3).multinomial(users, np.full(users, 1 / users), size=2000)
    for row in values:
        bootstrap_means(row, seed=4)
        np.testing.assert_allclose(bootstrap_means(row, seed=3), drawn @ row / users)
