import numpy as np
import pytest

from reranker.errors import BundleError, ConfigError
from reranker.fusion import GuardDecision, as_order, decide, ndcg_by_list


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
    decision = decide(recall=noisy(0.1), features=noisy(0.2, seed=1), fused=noisy(0.3, seed=2))
    assert decision.serve == "fused"
    assert decision.fused_minus_recall.mean == pytest.approx(0.2, abs=0.02)
    assert "beats the recall order" in decision.in_words()


def test_drops_the_llm_where_it_takes_away() -> None:
    decision = decide(recall=noisy(0.1), features=noisy(0.3, seed=1), fused=noisy(0.2, seed=2))
    assert decision.serve == "features"
    assert "does not add" in decision.in_words()


def test_serves_fused_where_the_evidence_alone_does_not_win() -> None:
    assert decide(recall=noisy(0.1), features=noisy(0.1, seed=1), fused=noisy(0.2, seed=2)).serve == "fused"


def test_does_not_pay_for_an_llm_that_changes_nothing() -> None:
    same = noisy(0.3, seed=1)
    assert decide(recall=noisy(0.1), features=same, fused=same).serve == "features"


@pytest.mark.parametrize("difference", [0.0, -0.05])
def test_leaves_the_order_alone_where_nothing_wins(difference: float) -> None:
    recall = noisy(0.2)
    decision = decide(recall=recall, features=recall + difference, fused=recall + difference)
    assert decision.serve == "recall"
    assert decision.in_words().startswith("serving the recall order: on 400 validation users")


def test_a_gain_within_the_noise_is_not_served() -> None:
    rng = np.random.default_rng(0)
    recall = rng.random(30)
    assert decide(recall=recall, features=recall, fused=recall + rng.normal(0.02, 0.5, 30)).serve == "recall"


def test_json_round_trip() -> None:
    decision = decide(recall=noisy(0.1), features=noisy(0.2, seed=1), fused=noisy(0.3, seed=2))
    assert GuardDecision.from_json(decision.to_json()) == decision


@pytest.mark.parametrize("damage", [{"serve": "best"}, {"fused_minus_recall": {"mean": 1}}, {"fused_minus_recall": 3}])
def test_damaged_json_is_a_bundle_error(damage: dict[str, object]) -> None:
    data = decide(recall=noisy(0.1), features=noisy(0.2), fused=noisy(0.3)).to_json() | damage
    with pytest.raises(BundleError, match="guard"):
        GuardDecision.from_json(data)


def test_unknown_order() -> None:
    assert as_order("fused") == "fused"
    with pytest.raises(ConfigError, match="fused, features, recall"):
        as_order("best")
