"""Off-policy estimates on simulated logs whose truth is known: expected rewards are worked out from the simulation."""

import numpy as np
import pandas as pd
import pytest

from reranker.errors import DataError
from reranker.evaluation.logs import compare_arms, estimate, interleaving_result, team_draft
from reranker.serve.exploration import Experiment, Explore, explore

N, K = 8, 3
BIAS = 1.0 / np.log2(np.arange(N) + 2)


def simulated(rankings, share=0.3, first=5, seed=0):
    """A log of a server that ranks badly and explores; (rows, true values of the served and of the best order)."""
    rng = np.random.default_rng(seed)
    settings = Explore(share=share, first=first) if share else None
    chance = rng.random((rankings, N)) * 0.5
    served = np.argsort(-(0.2 * chance + rng.random((rankings, N)) * 0.2), axis=1)  # this order knows little
    best = np.argsort(-chance, axis=1)
    shown = [None if settings is None else explore(N, settings, rng) for _ in range(rankings)]
    ranks = np.array([np.arange(N) if one is None else one.ranks for one in shown])
    items = np.take_along_axis(served, ranks, axis=1)
    reward = rng.random((rankings, N)) < np.take_along_axis(chance, items, axis=1) * BIAS
    rows = pd.DataFrame(
        {
            "request_id": np.repeat(np.arange(rankings), N),
            "user_id": np.repeat(np.arange(rankings) // 2, N),
            "item_id": items.ravel(),
            "rank": ranks.ravel() + 1,
            "best": np.take_along_axis(np.argsort(best, axis=1) + 1, items, axis=1).ravel(),
            "place": np.tile(np.arange(1, N + 1), rankings),
            "propensity": np.ones(rankings * N)
            if settings is None
            else np.concatenate([one.propensities for one in shown]),
            "reward": reward.ravel().astype(float),
        }
    )
    truths = [np.take_along_axis(chance, order[:, :K], axis=1) * BIAS[:K] for order in (served, best)]
    values = [one.sum(axis=1).mean() for one in truths]
    return rows, *map(float, values)


@pytest.mark.parametrize(("column", "which"), [("rank", 0), ("best", 1)])
def test_estimates_are_unbiased_and_their_intervals_cover(column, which):
    errors, covered = {"ips": [], "snips": [], "dr": []}, {"ips": 0, "snips": 0, "dr": 0}
    runs = 25
    for seed in range(runs):
        rows, *truths = simulated(300, share=0.8, first=N, seed=seed)
        found = estimate(rows, rows[column].to_numpy(float), column, K, seed=seed)
        for name in errors:
            value = getattr(found, name)
            errors[name].append(value.mean - truths[which])
            covered[name] += value.low <= truths[which] <= value.high
    for name, values in errors.items():
        standard_error = np.std(values) / np.sqrt(runs)
        assert abs(np.mean(values)) < 3.5 * standard_error, name
        assert covered[name] >= 0.8 * runs, name
    assert np.std(errors["dr"]) < np.std(errors["ips"])  # what doubly robust is for


def test_a_better_order_is_found_although_it_was_never_served():
    rows, served, best = simulated(1500, share=0.8, first=N)
    one, other = (estimate(rows, rows[column].to_numpy(float), column, K) for column in ("rank", "best"))
    assert best > served and other.dr.low > one.dr.mean
    assert one.effective > other.effective > 0 and other.unsupported == 0


def test_weights_by_hand():
    rows = pd.DataFrame(
        {
            "request_id": ["a", "a", "b", "b"],
            "user_id": ["u", "u", "v", "v"],
            "item_id": ["x", "y", "x", "y"],
            "place": [1, 2, 2, 1],
            "propensity": [0.75, 0.75, 0.25, 0.25],
            "reward": [1.0, 0.0, 0.0, 1.0],
        }
    )
    x_first = estimate(rows, np.array([1.0, 2, 1, 2]), "x first", k=1)
    assert x_first.ips.mean == pytest.approx((1 / 0.75) / 2)  # ranking b shows x elsewhere and counts 0
    assert x_first.snips.mean == pytest.approx(1.0)
    assert x_first.effective == pytest.approx(1.0)
    y_first = estimate(rows, np.array([2.0, 1, 2, 1]), "y first", k=1)
    assert y_first.ips.mean == pytest.approx((1 / 0.25) / 2)


def test_without_exploration_other_orders_cannot_be_told():
    rows, served, _ = simulated(400, share=0)
    mine = estimate(rows, rows["rank"].to_numpy(float), "served", K)
    assert mine.warning == "" and mine.ips.low < served < mine.ips.high and mine.effective == 400
    other = estimate(rows, rows["best"].to_numpy(float), "best", K)
    assert other.unsupported > 0.3 and "explored too little" in other.warning


def test_few_rankings_are_called_few():
    rows, *_ = simulated(40, share=0.8, first=N)
    assert "too few to tell" in estimate(rows, rows["best"].to_numpy(float), "best", K).warning


@pytest.mark.parametrize("value", [0.0, 1.5, np.nan])
def test_impossible_propensities_are_refused(value):
    rows, *_ = simulated(5)
    rows.loc[0, "propensity"] = value
    with pytest.raises(DataError, match="outside"):
        estimate(rows, rows["rank"].to_numpy(float), "x", K)


def test_propensities_are_the_shares_of_a_simulation():
    settings, rng = Explore(share=0.4, first=3), np.random.default_rng(0)
    counts, told = np.zeros((5, 5)), np.full((5, 5), np.nan)
    for _ in range(20_000):
        shown = explore(5, settings, rng)
        counts[shown.ranks, np.arange(5)] += 1
        told[shown.ranks, np.arange(5)] = shown.propensities
    np.testing.assert_allclose(counts / 20_000, np.nan_to_num(told), atol=0.012)
    assert told[0, 0] == pytest.approx(0.6 + 0.4 / 3) and told[1, 0] == pytest.approx(0.4 / 3) and told[4, 4] == 1


def test_arms_by_hash_are_even_fixed_and_independent():
    one = Experiment(name="e1", arms={"a": "fused", "b": "guard"})
    other = Experiment(name="e2", arms={"a": "fused", "b": "guard"})
    arms = np.array([[one.arm_of(user) == "a", other.arm_of(user) == "a"] for user in range(4000)])
    assert abs(arms.mean(axis=0) - 0.5).max() < 0.03 and abs(np.corrcoef(arms.T)[0, 1]) < 0.05
    assert one.arm_of("7") == one.arm_of(7) and one.order_of("b") is None and one.order_of("a") == "fused"
    with pytest.raises(ValueError, match="needs two arms"):
        Experiment(name="e", arms={"a": "fused"})


def arms(lift, users=400, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        {"user_id": f"u{user}", "request_id": f"{user}-{turn}", "arm": arm, "reward": float(rng.random() < rate)}
        for user in range(users)
        for arm, rate in [("test", 0.3 + lift) if user % 2 else ("control", 0.3)]
        for turn in range(3)
    ]
    return pd.DataFrame(rows)


def test_an_arm_that_is_better_is_found_and_an_equal_one_is_not():
    (found,) = compare_arms(arms(0.2), "control")
    assert found.difference.low > 0 and found.difference.mean == pytest.approx(0.2, abs=0.05)
    wrong = sum(
        not (one.difference.low <= 0 <= one.difference.high)
        for seed in range(40)
        for one in compare_arms(arms(0.0, seed=seed))
    )
    assert wrong <= 3  # 5 % of 15 are expected
    assert "not decided" in str(compare_arms(arms(0.0, 40))[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[rows["arm"] == "test"], "needs two arms"),
        (lambda rows: rows.drop(columns="arm"), "needs two arms"),
        (lambda rows: pd.concat([rows, rows.head(3).assign(arm="test")]), "in two arms"),
        (lambda rows: rows[(rows["arm"] == "test") | (rows["user_id"] == "u0")], "has one user"),
    ],
)
def test_experiments_that_say_nothing_are_refused(change, words):
    with pytest.raises(DataError, match=words):
        compare_arms(change(arms(0.1)))


def test_team_draft_is_fair_and_finds_the_better_order():
    rng = np.random.default_rng(0)
    good, bad = list(range(6)), list(range(5, -1, -1))
    drafted, teams = team_draft(good, bad, rng)
    assert sorted(drafted) == good and sorted(teams) == [0, 0, 0, 1, 1, 1]
    chosen = {team: [] for team in (0, 1)}
    same = []
    for _ in range(300):
        drafted, teams = team_draft(good, bad, rng, length=4)
        taken = rng.random(4) < np.array([0.6 - 0.1 * item for item in drafted])
        for team in (0, 1):
            chosen[team].append(sum(hit for hit, mine in zip(taken, teams, strict=True) if mine == team))
        _, teams = team_draft(good, good, rng, length=3)
        same.append(teams[0])
    assert (
        interleaving_result(chosen[0], chosen[1]).decided and interleaving_result(chosen[0], chosen[1]).preference > 0.6
    )
    assert 0.4 < np.mean(same) < 0.6  # who begins is drawn
    assert not interleaving_result([1, 0], [0, 1]).decided
    one_user = interleaving_result([1.0] * 9 + [0.0], [0.0] * 9 + [1.0], users=["u"] * 9 + ["v"])
    assert one_user.preference == 0.9 and one_user.by_user.mean == 0.5 and not one_user.decided  # 9 wins are one user's
    assert "A wins 9, B 1, 0 ties; preference for A 0.500" in str(one_user)
    with pytest.raises(DataError, match="same items"):
        team_draft([1, 2], [1, 3], rng)
    with pytest.raises(DataError, match="0 and 0"):
        interleaving_result([], [])
