from dataclasses import replace

import numpy as np
import pytest

from reranker.errors import BundleError, ConfigError
from reranker.fusion import GuardDecision, as_order, decide, ndcg_by_list

MUCH = np.full(400, 30)  # interactions known of each user


def noisy(mean: float, n: int = 400, seed: int = 0) -> np.ndarray:
    return mean + 0.1 * np.random.default_rng(seed).standard_normal(n)


def test_ndcg_by_hand() -> None:
    scores = np.array([3.0, 2.0, 1.0, 1.0, 2.0])
    lists = np.array([0, 0, 0, 1, 1])
    chosen = np.array([False, True, False, True, False])
    # Both chosen items are second in their list; the second user chose another item that nobody proposed.
    second = 1 / np.log2(3)
    expected = [second, second / (1 + second)]
    assert ndcg_by_list(scores, lists, chosen, np.array([1, 2])) == pytest.approx(expected)


def test_ndcg_beyond_k_and_without_relevant_items_is_zero() -> None:
    scores, lists = np.array([3.0, 2.0, 1.0]), np.array([0, 0, 1])
    chosen = np.array([False, True, False])
    assert ndcg_by_list(scores, lists, chosen, np.array([1, 0]), k=1) == pytest.approx([0.0, 0.0])


def test_ndcg_ties_keep_row_order() -> None:
    scores, chosen = np.zeros(2), np.array([True, False])
    assert ndcg_by_list(scores, np.zeros(2, dtype=np.int64), chosen, np.array([1])) == pytest.approx([1.0])


def test_serves_the_fused_order_where_it_wins() -> None:
    decision = decide(generator=noisy(0.1), features=noisy(0.2, seed=1), fused=noisy(0.3, seed=2), n_known=MUCH)
    assert decision.serve == "fused"
    assert decision.fused_minus_first_stage.mean == pytest.approx(0.2, abs=0.02)
    assert "beats the first-stage order" in decision.summary()


def test_drops_the_llm_where_it_takes_away() -> None:
    decision = decide(generator=noisy(0.1), features=noisy(0.3, seed=1), fused=noisy(0.2, seed=2), n_known=MUCH)
    assert decision.serve == "baseline"
    assert "does not add" in decision.summary()


def test_serves_fused_where_the_baseline_alone_does_not_win() -> None:
    assert (
        decide(generator=noisy(0.1), features=noisy(0.1, seed=1), fused=noisy(0.2, seed=2), n_known=MUCH).serve
        == "fused"
    )


def test_does_not_pay_for_an_llm_that_changes_nothing() -> None:
    same = noisy(0.3, seed=1)
    assert decide(generator=noisy(0.1), features=same, fused=same, n_known=MUCH).serve == "baseline"


@pytest.mark.parametrize("difference", [0.0, -0.05])
def test_leaves_the_order_alone_where_nothing_wins(difference: float) -> None:
    generator = noisy(0.2)
    decision = decide(generator=generator, features=generator + difference, fused=generator + difference, n_known=MUCH)
    assert decision.serve == "first_stage"
    assert decision.summary().startswith("serving the first-stage order: on 400 validation users")


def test_a_gain_within_the_noise_is_not_served() -> None:
    rng = np.random.default_rng(0)
    generator = rng.random(30)
    fused = generator + rng.normal(0.02, 0.5, 30)
    assert decide(generator=generator, features=generator, fused=fused, n_known=MUCH[:30]).serve == "first_stage"


def by_length(gains: dict[int, float], users: int = 100) -> GuardDecision:
    """Known interactions -> what the fused order adds for users of whom that much is known."""
    n_known = np.repeat(list(gains), users)
    fused = np.repeat(list(gains.values()), users) + noisy(0.1, len(n_known), seed=1) * 0.1
    zeros = np.zeros(len(n_known))
    return decide(generator=zeros, features=zeros, fused=fused, n_known=n_known)


def test_users_of_whom_little_is_known_keep_the_first_stage_order_where_the_other_loses() -> None:
    decision = by_length({2: -0.3, 7: 0.2, 30: 0.4})
    assert decision.serve == "fused"
    assert [group.at_least for group in decision.by_history] == [2, 7, 30]
    assert decision.by_history[0].gain.mean == pytest.approx(-0.29, abs=0.01)
    assert decision.by_history[0].gain.n == 100
    # Fewer than anyone in the fold; those that lose; and from there on the others, between the groups, too.
    assert decision.holds_for(np.array([0, 1, 2, 6, 7, 12, 500])).tolist() == [False] * 4 + [True] * 3
    assert (
        "users with fewer than 2 known interactions keep the first-stage order: too few were seen" in decision.summary()
    )
    assert "users with 2 to 6 known interactions keep the first-stage order (-0.29" in decision.summary()


def test_a_group_that_loses_between_others_keeps_the_first_stage_order_alone() -> None:
    decision = by_length({4: 0.3, 8: -0.1, 40: 0.3})
    assert decision.holds_for(np.array([4, 8, 40])).tolist() == [True, False, True]
    assert "users with 8 to 39 known interactions keep the first-stage order" in decision.summary()
    last = by_length({4: 0.3, 40: -0.1})
    assert "users with 40 or more known interactions keep the first-stage order" in last.summary()


def test_the_longest_histories_are_judged_with_those_before_where_they_are_few() -> None:
    n_known = np.array([1] * 5 + [4] * 30 + [30] * 5)
    gain = np.where(n_known == 1, -0.1, 0.3)
    decision = decide(generator=np.zeros(40), features=np.zeros(40), fused=gain, n_known=n_known)
    assert [(group.at_least, group.gain.n) for group in decision.by_history] == [(4, 35)]
    assert decision.holds_for(np.array([0, 1, 4, 30])).tolist() == [False, False, True, True]  # five vouch for nobody


def test_a_user_counts_once_by_the_mean_of_his_lists() -> None:
    gain = np.array([0.3, 0.1, 0.2, 0.0])
    zeros = np.zeros(4)
    decision = decide(
        generator=zeros, features=zeros, fused=gain, n_known=np.array([9, 8, 7, 9]), users=np.array([5, 5, 5, 2])
    )
    assert decision.fused_minus_first_stage.n == 2
    assert decision.fused_minus_first_stage.mean == pytest.approx(0.1)
    assert decision.fused_minus_baseline.mean == pytest.approx(0.1)


def test_many_lists_of_few_users_vouch_for_nobody_who_is_as_new() -> None:
    few, many = np.repeat(np.arange(5), 6), np.arange(5, 45)
    users = np.concatenate([few, many])
    n_known = np.where(users < 5, 1, 8)
    zeros = np.zeros(len(users))
    decision = decide(generator=zeros, features=zeros, fused=zeros + 0.3, n_known=n_known, users=users)
    assert [(group.at_least, group.gain.n) for group in decision.by_history] == [(8, 40)]
    assert decision.holds_for(np.array([1, 8])).tolist() == [False, True]


def test_strangers_are_judged_where_there_are_enough():
    decision = by_length({0: -0.2, 1: 0.3, 30: 0.3})
    assert "users with 0 known interactions keep the first-stage order (-0.1" in decision.summary()
    assert decision.holds_for(np.array([0, 1])).tolist() == [False, True]
    assert by_length({0: 0.2, 30: 0.3}).holds_for(np.array([0])).all()


def test_a_decision_is_overruled_for_everyone():
    decision = by_length({2: -0.3, 7: 0.2, 30: 0.4})
    assert decision.overruled("baseline").holds_for(np.array([0, 2])).all()
    assert decision.overruled("baseline").serve == "baseline"
    assert decision.overruled("fused", at_least=5).holds_for(np.array([4, 5])).tolist() == [False, True]
    assert not decision.overruled("first_stage").holds_for(np.array([30])).any()
    with pytest.raises(ValueError, match="serves 'first_stage' to 3 groups"):
        replace(decision, serve="first_stage")


def test_nobody_is_reordered_where_the_first_stage_order_is_served() -> None:
    generator = noisy(0.2)
    decision = decide(generator=generator, features=generator - 0.1, fused=generator - 0.1, n_known=MUCH)
    assert decision.by_history == ()
    assert not decision.holds_for(np.array([0, 3, 1000])).any()
    assert ";" not in decision.summary()


def test_json_round_trip() -> None:
    decision = decide(generator=noisy(0.1), features=noisy(0.2, seed=1), fused=noisy(0.3, seed=2), n_known=MUCH)
    assert GuardDecision.from_json(decision.to_json()) == decision


@pytest.mark.parametrize(
    "damage",
    [
        {"serve": "best"},
        {"fused_minus_first_stage": {"mean": 1}},
        {"fused_minus_first_stage": 3},
        {"by_history": [{"at_least": 1}]},
        {"by_history": [3]},
        {"by_history": []},
        {"serve": "baseline", "only_new_items": True},
    ],
)
def test_damaged_json_is_a_bundle_error(damage: dict[str, object]) -> None:
    data = decide(generator=noisy(0.1), features=noisy(0.2), fused=noisy(0.3), n_known=MUCH).to_json() | damage
    with pytest.raises(BundleError, match="guard"):
        GuardDecision.from_json(data)


def test_unknown_order() -> None:
    assert as_order("fused") == "fused"
    with pytest.raises(ConfigError, match="fused, baseline, first_stage"):
        as_order("best")
