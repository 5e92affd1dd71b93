"""What the tables of eval.benchmark must reach, on gains that were made by hand."""

import numpy as np
import pytest

from eval.benchmark_tables import (
    TABLES,
    Goal,
    domains_above,
    each_at_least,
    gains_by_pair,
    mean_of_runs,
    none_below,
    together_at_least,
)
from eval.variants import Variant
from reranker.evaluation.significance import Comparison, compare


def gain(domain, relative, low=None, high=None, metric="ndcg@10"):
    """In shares of a rival that scores 1; the interval is .1 either way where none is given."""
    low, high = relative - 0.1 if low is None else low, relative + 0.1 if high is None else high
    shares = {"relative": relative, "relative_low": low, "relative_high": high}
    rest = {"p": 0.5, "p_holm": 0.5, "n_users": 9, "detectable": 0.0}
    pair = {"domain": domain, "system": "fused.x", "versus": "first_stage", "metric": metric}
    return Comparison(**pair, mean=relative, low=low, high=high, **shares, **rest)


GAINS = {
    ("fused.x", "first_stage"): {
        "a": gain("a", 0.3),
        "b": gain("b", 0.05),
        "c": gain("c", -0.3),
        "pooled": gain("pooled", 0.2, 0.12, 0.28),
    }
}


@pytest.mark.parametrize(
    "reach, words, value, passed",
    [
        (domains_above(1), "domains above 0", 1, True),  # a; not c, and pooled is no domain
        (domains_above(2), "domains above 0", 1, False),
        (none_below, "domains below 0", 1, False),
        (each_at_least(15), "least of a domain", -30, False),
        (each_at_least(-30), "least of a domain", -30, True),
        (together_at_least(20), "", 20, True),
        (together_at_least(21), "", 20, False),
    ],
)
def test_a_goal_looks_at_the_domains_or_at_all_together(reach, words, value, passed):
    check = Goal(system="fused.x", versus="first_stage", reach=reach).check("new", GAINS)
    assert check.name == ("new: fused.x over first_stage" + (f", {words}" if words else ""))
    assert (check.value, check.passed) == (pytest.approx(value), passed)


def test_a_share_of_nothing_is_no_least_gain():
    gains = {("fused.x", "first_stage"): {"a": gain("a", 0.2), "b": gain("b", float("nan"))}}
    assert Goal(system="fused.x", versus="first_stage", reach=each_at_least(15)).check("new", gains).value == 20


def test_what_was_not_compared_is_told_without_a_verdict():
    check = Goal(system="llm.x", versus="text_alone", reach=none_below).check("new", GAINS)
    assert (check.name, check.verdict) == ("new: llm.x over text_alone, not compared", "-")
    assert mean_of_runs("new", "llm.x", "text_alone", [GAINS, GAINS]).verdict == "-"


def test_the_mean_of_runs_has_an_interval_by_how_they_differ():
    runs = [{("fused.x", "first_stage"): {"a": gain("a", share)}} for share in (0.1, 0.2, 0.6)]
    check = mean_of_runs("items", "fused.x", "first_stage", runs)
    # Standard deviation 26.4575, its error 15.2753, 4.3027 of them for two degrees of freedom: 30 +- 65.72.
    assert check.value == pytest.approx(30) and not check.passed
    assert "[-35.7%, +95.7%]" in check.target
    close = [{("fused.x", "first_stage"): {"a": gain("a", share)}} for share in (0.19, 0.2, 0.21)]
    assert mean_of_runs("items", "fused.x", "first_stage", close).passed
    assert mean_of_runs("items", "fused.x", "first_stage", runs[:1]).verdict == "-"


def test_gains_are_found_by_pair_and_metric():
    rng = np.random.default_rng(0)
    values = {name: (rng.random(9), rng.random(9)) for name in ("a", "b")}
    found = [
        one
        for metric in ("ndcg@10", "mrr")
        for one in compare(values, system="x", versus="y", metric=metric, resamples=50)
    ]
    pairs = gains_by_pair(found, "mrr")
    assert {pair: set(gains) for pair, gains in pairs.items()} == {("x", "y"): {"a", "b", "pooled"}}
    assert all(one.metric == "mrr" for one in pairs["x", "y"].values())


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_variant_can_be_built_and_every_goal_is_about_what_is_compared(table):
    variants = {name: Variant.parse(f"{name}={text}", "scripted") for name, text in table.variants.items()}
    for one in variants.values():
        one.trained(table.domains or ("movies",))
    assert table.reads_lists == any(one.config.reads_lists for one in variants.values())
    compared = {(f"{system}.{a}", f"{system}.{b}") for a, b in table.rivals for system in ("llm", "fused")}
    compared |= {
        (f"{system}.{name}", other)
        for name in variants
        for system in ("fused", "served")
        for other in ("first_stage", "baseline")
    }
    for run in table.runs:
        assert {(goal.system, goal.versus) for goal in run.goals} <= compared
    assert len({run.label for run in table.runs}) == len(table.runs)
