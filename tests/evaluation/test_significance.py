import numpy as np
import pytest

from reranker.errors import DataError
from reranker.evaluation.significance import compare, holm, with_holm
from reranker.utils import statistics as bootstrap
from reranker.utils.statistics import mean_interval


def one(mine, other, **kwargs):
    values = {"d": (np.asarray(mine, dtype=float), np.asarray(other, dtype=float))}
    return compare(values, system="s", versus="base", metric="ndcg@10", **kwargs)[0]


def test_a_constant_difference_has_no_width():
    result = one([3, 2, 4], [2, 1, 3])
    assert (result.mean, result.low, result.high) == pytest.approx((1, 1, 1))
    assert result.relative == pytest.approx(3 / 2 - 1)
    assert result.decided
    assert result.detectable == pytest.approx(0)


def test_difference_and_interval_are_those_of_the_one_bootstrap():
    rng = np.random.default_rng(0)
    mine, other = rng.random(200), rng.random(200)
    result, expected = one(mine, other, seed=4), mean_interval(mine - other, seed=4)
    assert (result.mean, result.low, result.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_equal_systems_are_not_different():
    result = one([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    assert result.p == 1
    assert not result.decided


def test_power_note_names_what_could_have_been_found():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=400)
    result = one(noise + 0.01, np.zeros(400))
    assert not result.decided
    # (1.96 + 0.84) * sd / sqrt(n)
    assert result.detectable == pytest.approx(2.8016 * noise.std(ddof=1) / 20, rel=1e-3)
    assert "400 users" in result.power_note
    assert one(noise + 1.0, np.zeros(400)).power_note == ""


def test_coverage_of_the_interval_is_about_95_percent():
    rng = np.random.default_rng(2)
    inside = 0
    for trial in range(100):
        result = one(rng.normal(0.3, 1, size=80), np.zeros(80), seed=trial, resamples=300)
        inside += result.low <= 0.3 <= result.high
    assert 88 <= inside <= 100


def test_holm_by_hand():
    # sorted: .01*4, .02*3, .03*2, .04*1 -> made monotone: .04 .06 .06 .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.01, float("nan")])[0] == pytest.approx(0.01)


def test_holm_corrects_within_each_domain_and_metric():
    rng = np.random.default_rng(3)
    values = {"a": (rng.normal(1, 1, 50), np.zeros(50)), "b": (rng.normal(0, 1, 50), np.zeros(50))}
    first = compare(values, system="x", versus="base", metric="m")
    second = compare(values, system="y", versus="base", metric="m")
    corrected = with_holm([*first, *second])
    assert [c.p_holm for c in corrected[:3]] == pytest.approx([min(1, 2 * c.p) for c in first])


def test_pooled_counts_each_domain_the_same():
    values = {"small": (np.full(3, 0.5), np.full(3, 0.25)), "big": (np.full(300, 0.2), np.full(300, 0.2))}
    pooled = compare(values, system="s", versus="base", metric="m")[-1]
    assert pooled.domain == "pooled"
    assert pooled.mean == pytest.approx((0.25 + 0) / 2)
    assert pooled.n_users == 303


def test_a_single_user_has_a_difference_and_no_interval():
    result = one([0.5], [0.2])
    assert result.mean == pytest.approx(0.3)
    assert np.isnan([result.low, result.high, result.p]).all()
    assert not result.decided


def test_zero_baseline_has_no_relative_difference():
    assert np.isnan(one([1, 2], [0, 0]).relative)


def test_unpaired_users_are_refused():
    with pytest.raises(DataError, match="'d'"):
        one([1, 2, 3], [1, 2])


def test_resamples_are_the_same_however_many_are_held_at_a_time(monkeypatch):
    values = np.random.default_rng(2).random(50)
    whole = bootstrap.bootstrap_means(values, seed=3, resamples=101)
    monkeypatch.setattr(bootstrap, "_DRAWS", 500)
    np.testing.assert_allclose(bootstrap.bootstrap_means(values, seed=3, resamples=101), whole, rtol=1e-12)
