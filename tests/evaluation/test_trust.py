"""The benchmark's table on trust, on a data set of tastes."""

from eval.trust import estimated, refreshed
from tests.refresh.test_refresh import days


def test_a_refresh_is_compared_with_a_fit_and_explanations_are_tested():
    data, _, every = days()
    whole = type(data)(interactions=every, items=data.items, domain="toy")
    found = {check.name: check for check in refreshed(whole, 40, windows=4)}
    assert found["refresh: largest difference of a count from a full fit"].value == 0
    assert found["refresh: largest difference of a co-visit cosine"].value < 1e-9
    assert found["refresh: seconds"].value > 0 and found["explain: users"].value == 40
    assert found["drift: windows found, 10% of users unknown"].passed


def test_estimates_hit_the_truth_where_counting_does_not():
    found = {check.name: check.value for check in estimated(logs=12, rankings=400)}
    assert abs(found["logs: relative bias of ips"]) < 0.06
    assert abs(found["logs: relative bias of dr"]) < 0.06
    assert abs(found["logs: relative bias of naive"]) > 0.1
