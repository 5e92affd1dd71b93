"""Explanations against numbers worked out by hand, and against the ranking that they explain."""

import numpy as np
import pytest

from reranker import Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError, DataError
from reranker.explain import contributions, deletion_test, group_of, history_effects, sentence
from tests.pipeline import toys


def test_contributions_by_hand():
    values = np.array([[1.0, 0.0], [-1.0, 4.0]])
    found = contributions(["popularity", "llm_near_last"], values * np.array([2.0, 0.5]))
    np.testing.assert_allclose(found.values, [[2.0, -1.0], [-2.0, 1.0]])
    assert list(found.groups) == ["popularity", "text"]
    np.testing.assert_allclose(found.groups["text"], [-1.0, 1.0])


@pytest.mark.parametrize(
    ("column", "group"),
    [
        ("first_stage_score", "first_stage"),
        ("first_stage_rank", "first_stage"),
        ("recent_popularity", "recency"),
        ("popularity_x_length", "popularity"),
        ("covisit_mean", "collaborative"),
        ("llm_gain_x_popularity", "text"),
        ("cf_projection_mean_x_popularity", "text"),
        ("predicted_popularity", "text"),
        ("margin", "other"),
        ("items.price:distance", "own"),
        ("users.age:x_popularity", "own"),
        ("candidates.ctr", "own"),
    ],
)
def test_columns_are_grouped(column, group):
    assert group_of(column) == group


def additive(worth):
    """Candidate c gets the sum of `worth[c][item]` over the history: leave-one-out is then exact."""

    def score(histories):
        return np.array([[sum(one[item] for item in history) for one in worth] for history in histories], dtype=float)

    return score


def test_effects_of_an_additive_score_are_its_terms():
    score = additive([{"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 1.0}])
    positions, effects = history_effects(score, ["a", "b"])
    assert positions == [1, 0]
    np.testing.assert_allclose(effects, [[0.0, 0.0], [1.0, -1.0]])  # against the mean of the list


def test_only_the_newest_are_left_out():
    positions, effects = history_effects(additive([{"a": 1.0}, {"a": 0.0}]), ["a"] * 30, most=4)
    assert positions == [29, 28, 27, 26] and effects.shape == (4, 2)
    assert history_effects(additive([{}]), [])[0] == []


def test_deletion_finds_the_items_that_carry_the_candidate():
    worth = [{f"i{n}": 1.0 if n < 3 else 0.1 for n in range(8)}, {f"i{n}": 0.0 for n in range(8)}]
    found = deletion_test([(additive(worth), [f"i{n}" for n in range(8)])] * 12 + [(additive(worth), ["i0"])])
    assert found.auc.mean == 1.0 and found.auc.n == 12 and found.n_left_out == 1
    assert found.named.mean == pytest.approx(1.5)  # 3 of 3.5, half of it against a mean of two candidates
    assert found.others.mean == pytest.approx(0.15)


def test_deletion_of_items_that_all_count_alike_is_a_tie():
    worth = [{f"i{n}": 1.0 for n in range(8)}, {f"i{n}": 0.0 for n in range(8)}]
    assert deletion_test([(additive(worth), [f"i{n}" for n in range(8)])] * 4).auc.mean == 0.5


def test_a_score_that_ignores_the_history_gives_no_better_than_chance():
    rng = np.random.default_rng(0)

    def noise(histories):
        return rng.normal(size=(len(histories), 5))

    found = deletion_test([(noise, list(range(10)))] * 400)
    assert found.auc.low < 0.5 < found.auc.high


def test_deletion_without_long_histories_says_so():
    with pytest.raises(DataError, match="none of 1 users has 6 items"):
        deletion_test([(additive([{"a": 1.0}]), ["a"])])


class TestSentences:
    def test_names_what_moved_it(self):
        history = [("Alien", 1.0), ("Heat", 0.1), ("Dune", 0.9)]
        assert sentence({"popularity": 0.5}, history, "en", "movies") == "Because you watched “Alien” and “Dune”"
        assert sentence({"popularity": 0.5}, history, "zh", "movies") == "因为您看过《Alien》和《Dune》"

    def test_says_popularity_where_that_is_more(self):
        assert sentence({"popularity": 3.0, "text": 9.0}, [("Alien", 1.0)]) == "Many people choose it"

    def test_never_names_what_moved_it_down(self):
        assert sentence({"popularity": -1.0}, [("Alien", -1.0)]) == "Also suggested for you"
        assert sentence({}, [], "zh") == "同样为您推荐"

    def test_an_item_is_no_reason_for_itself(self):
        history = [("Alien", 0.5)]
        assert sentence({"popularity": 0.2}, history, "en", "movies", itself=0.9) == "You watched it before"
        assert sentence({"popularity": 0.2}, history, "zh", "movies", itself=0.9) == "您看过它"
        assert sentence({"popularity": 0.2}, history, "en", "movies", itself=0.1) == "Because you watched “Alien”"
        assert sentence({"popularity": 1.2}, history, "en", "movies", itself=0.9) == "Many people choose it"
        assert sentence({"text": 1.2}, [], "en", "movies", itself=-0.1) == "Also suggested for you"

    def test_titles_are_data(self):
        said = sentence({}, [("Evil” and\n\x1b[31m“Good", 1.0)])
        assert "\n" not in said and "\x1b" not in said and said.count("“") == said.count("”") == 1
        assert len(sentence({}, [("x" * 500, 1.0)])) < 100


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return toys.fitted(ScriptedEngine(), scorer="embedding")


CANDIDATES = [f"g{group}i{number}" for group in range(4) for number in range(3)]


@pytest.mark.parametrize("order", ["fused", "baseline"])
def test_contributions_add_up_to_what_is_served(reranker, order):
    found = reranker.explain("u1", CANDIDATES, order=order)
    assert found.order == order and len(found.items) == 12
    ranked = reranker.rerank(
        toys.table([("u1", item, 1 / at) for at, item in enumerate(CANDIDATES, 1)]), order=order
    ).to_frame()
    assert [one.item_id for one in found.items] == ranked["item_id"].tolist()
    for one, score in zip(found.items, ranked["score"], strict=True):
        assert one.score == score
        assert sum(one.contributions.values()) == pytest.approx(score - ranked["score"].mean(), abs=1e-9)
        assert sum(one.columns.values()) == pytest.approx(score - ranked["score"].mean(), abs=1e-9)
    assert ("text" in found.groups) == (order == "fused")


def test_an_effect_is_the_score_with_minus_the_score_without(reranker):
    history = reranker.history("u1")
    found = reranker.explain("u1", CANDIDATES, order="fused")
    one = found.items[0]
    effect = one.history[0]
    without = [item for at, item in enumerate(history) if at != effect.position]
    again = reranker.explain("u1", CANDIDATES, order="fused", history=without)
    shorter = {item.item_id: item.score - again.mean for item in again.items}
    assert effect.item_id == history[effect.position]
    assert effect.effect == pytest.approx(one.score - found.mean - shorter[one.item_id], abs=1e-9)


def test_the_items_named_are_of_the_users_taste(reranker):
    found = reranker.explain("u1", CANDIDATES, 1, order="fused")
    assert found.items[0].item_id.startswith("g1")
    assert found.items[0].history[0].item_id.startswith("g1")
    assert found.sentences()[0].startswith(("Because you chose “mipfen mippel", "Many", "People"))


def test_the_first_stage_order_is_explained_by_itself(reranker):
    from typing import get_args

    from reranker.fusion import Order

    came_in = get_args(Order)[2]
    found = reranker.explain("u1", CANDIDATES, order=came_in)
    assert found.order == came_in and [one.item_id for one in found.items] == CANDIDATES
    assert set(found.items[0].contributions) == {"first_stage"} and found.items[0].history == ()
    with pytest.raises(ConfigError, match="has no head"):
        reranker.head_columns(toys.table([("u1", "g0i0", 1.0)]).assign(rank=1), came_in)


def test_a_new_user_has_no_history_to_name(reranker):
    found = reranker.explain("nobody", CANDIDATES, order="fused")
    assert found.history_known == found.history_used == 0
    assert all("Because" not in one for one in found.sentences())


def test_table_and_record_carry_the_same_numbers(reranker):
    found = reranker.explain("u1", CANDIDATES, 3, order="fused")
    table, record = found.table(), found.record("zh")
    assert len(table.splitlines()) == 5 and f"{found.items[0].contributions['text']:+.3f}" in table
    assert record["items"][0]["contributions"] == found.items[0].contributions
    assert "served: fused; 5 of 5 items" in table


@pytest.mark.parametrize("candidates", ["g0i0", toys.table([("u2", "g0i0", 1.0)])])
def test_a_list_of_somebody_else_is_refused(reranker, candidates):
    with pytest.raises(DataError, match=r"one text instead|no row of user 'u1'"):
        reranker.explain("u1", candidates)
