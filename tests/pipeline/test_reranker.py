"""`Reranker.rerank` and `Reranker.rank`: what comes out for what goes in."""

import asyncio
import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from candidate_gen import ALSGenerator, PopularityGenerator
from reranker import ConfigError, DataError, Dataset, Reranker
from reranker.data.schema import RANKING_COLUMNS, validate_candidates
from reranker.engines.scripted import ScriptedEngine
from reranker.pipeline import lazy_engine
from reranker.pipeline.results import RerankReport
from reranker.pipeline.text_ranking import TextList
from tests.pipeline import toys

ORDERS = ("fused", "baseline", "first_stage")
CHOSEN = ["g0i0", "g1i1", "g2i2", "g3i3", "g0i4", "g1i5"]


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted()


@pytest.fixture(scope="module")
def candidates():
    return toys.lists_for([f"u{user}" for user in (7, 2, 40, 11)], CHOSEN)


def check_ranking(ranked, candidates):
    """Everything a complete ranking promises."""
    assert list(ranked.columns) == RANKING_COLUMNS
    users = list(dict.fromkeys(candidates["user_id"]))
    assert list(dict.fromkeys(ranked["user_id"])) == users
    assert ranked["user_id"].tolist() == sorted(ranked["user_id"], key=users.index)
    for user, part in ranked.groupby("user_id", sort=False):
        given = candidates[candidates["user_id"].map(lambda value, user=user: value == user)]
        assert len(part) == len(given)
        assert set(part["item_id"]) == set(given["item_id"])
        assert part["rank"].tolist() == list(range(1, len(part) + 1))
        assert sorted(part["first_stage_rank"]) == part["rank"].tolist()
        assert (np.diff(part["score"]) <= 0).all()
    assert np.isfinite(ranked["score"]).all()


@pytest.mark.parametrize("order", ORDERS)
def test_a_ranking_is_a_permutation_with_falling_scores(reranker, candidates, order):
    ranked = reranker.rerank(candidates, order=order)
    check_ranking(ranked.to_frame(), candidates)
    assert ranked.report == RerankReport(
        served=order, users=4, candidates=24, users_kept=0, unknown_users=0, unknown_items=0
    )
    assert ranked.orders == (order,) * 4 and set(ranked.users) == {"u7", "u2", "u40", "u11"}


def test_what_first_stage_said_is_kept(reranker, candidates):
    ranked = reranker.rerank(candidates, order="fused").to_frame()
    both = ranked.merge(candidates, on=["user_id", "item_id"], suffixes=("", "_in"))
    assert (both["first_stage_score"] == both["score_in"]).all()
    expected = candidates.groupby("user_id")["score"].rank(ascending=False).astype(int)
    in_ranks = candidates.assign(expected=expected).merge(ranked, on=["user_id", "item_id"])
    assert (in_ranks["expected"] == in_ranks["first_stage_rank"]).all()


def test_the_first_stage_order_is_left_alone_whatever_was_learned(reranker, candidates):
    ranked = reranker.rerank(candidates, order="first_stage").to_frame()
    best_first = candidates.sort_values("score", ascending=False)
    for user, ordered in toys.in_order(ranked).items():
        assert ordered == best_first[best_first["user_id"] == user]["item_id"].tolist()
    assert (ranked["rank"] == ranked["first_stage_rank"]).all()


def test_ranks_decide_the_first_stage_order_where_scores_disagree(reranker):
    upside_down = pd.DataFrame({"user_id": "u1", "item_id": CHOSEN, "score": range(6), "rank": range(1, 7)})
    ranked = reranker.rerank(upside_down, order="first_stage").to_frame()
    assert ranked["item_id"].tolist() == CHOSEN
    check_ranking(ranked, upside_down)


def test_taste_decides_the_fused_order(reranker):
    lists = toys.lists_for([f"u{user}" for user in range(8)], CHOSEN)
    firsts = {user: items[0] for user, items in toys.in_order(reranker.rerank(lists, order="fused").to_frame()).items()}
    right = sum(first.startswith(f"g{int(user[1:]) % 4}") for user, first in firsts.items())
    assert right >= 6


@pytest.mark.parametrize("order", ORDERS)
def test_k_cuts_the_complete_ranking(reranker, candidates, order):
    whole, cut = reranker.rerank(candidates, order=order).to_frame(), reranker.rerank(candidates, 2, order=order)
    pd.testing.assert_frame_equal(cut.to_frame(), whole[whole["rank"] <= 2].reset_index(drop=True))
    pd.testing.assert_frame_equal(reranker.rerank(candidates, 1000, order=order).to_frame(), whole)
    assert cut.report.candidates == 24 and len(cut) == 8


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(reranker, candidates, k):
    with pytest.raises(ConfigError, match=f"k must be at least 1, got {k}"):
        reranker.rerank(candidates, k)


def test_an_unknown_order_is_refused(reranker, candidates):
    with pytest.raises(ConfigError, match="unknown order 'best'"):
        reranker.rerank(candidates, order="best")


@pytest.mark.parametrize("order", ORDERS)
def test_order_of_rows_in_does_not_change_what_comes_out(reranker, candidates, order):
    """Users may come out in another order; every user's list is the same to the last bit."""
    before = reranker.rerank(candidates, order=order).to_frame().set_index(["user_id", "item_id"]).sort_index()
    for seed in range(3):
        shuffled = candidates.sample(frac=1.0, random_state=seed)
        after = reranker.rerank(shuffled, order=order).to_frame().set_index(["user_id", "item_id"]).sort_index()
        pd.testing.assert_frame_equal(after, before, check_exact=True)


def test_users_do_not_change_each_others_scores(reranker, candidates):
    together = reranker.rerank(candidates, order="fused").to_frame()
    for user in ("u7", "u2"):
        part = reranker.rerank(candidates[candidates["user_id"] == user], order="fused").to_frame()
        same = together[together["user_id"] == part["user_id"].iloc[0]].reset_index(drop=True)
        pd.testing.assert_frame_equal(part, same, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["baseline", "first_stage"])
def test_a_list_with_strange_scores_leaves_the_others_as_they_are(reranker, candidates, order):
    """Scores as large as times in nanoseconds, and against their ranks."""
    strange = pd.DataFrame({"user_id": "odd", "item_id": CHOSEN, "score": np.arange(6) * 1e17 + 1.7e18})
    every = pd.concat([validate_candidates(candidates), strange.assign(rank=range(1, 7))], ignore_index=True)
    beside = reranker.rerank(every, order=order).to_frame()
    alone = reranker.rerank(candidates, order=order).to_frame()
    pd.testing.assert_frame_equal(beside[beside["user_id"] != "odd"], alone, rtol=1e-12, atol=1e-12)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_lists_come_out_as_permutations(reranker, data):
    catalogue = [*CHOSEN, "unheard of", 5, ("a", 1)]
    users = data.draw(st.lists(st.sampled_from(["u1", "u2", "new_user", 3, (1, "x")]), min_size=1, unique=True))
    rows = [
        (user, item, data.draw(st.floats(-1e6, 1e6)))
        for user in users
        for item in data.draw(st.lists(st.sampled_from(catalogue), min_size=1, unique=True))
    ]
    # Ids of no known kind are refused.
    assume(any(isinstance(item, str) for _, item, _ in rows) and any(isinstance(user, str) for user, _, _ in rows))
    candidates = toys.table(rows)
    for order in ORDERS:
        check_ranking(reranker.rerank(candidates, order=order).to_frame(), candidates)


def _renamed(values, rename):
    return pd.Series([rename[value] for value in values], dtype=object)


@pytest.mark.parametrize(
    "make_id",
    [str, int, lambda number: number if number % 2 else str(number), lambda number: ("shop", number)],
    ids=["str", "int", "mixed", "tuples"],
)
def test_ids_leave_as_they_came(make_id, tmp_path):
    data = toys.taste_dataset()
    users = {user: make_id(number) for number, user in enumerate(data.interactions["user_id"].unique())}
    item_ids = {item: make_id(1000 + number) for number, item in enumerate(data.items["item_id"])}
    interactions = data.interactions.assign(
        user_id=_renamed(data.interactions["user_id"], users), item_id=_renamed(data.interactions["item_id"], item_ids)
    )
    items = data.items.assign(item_id=_renamed(data.items["item_id"], item_ids))
    data = Dataset(interactions=interactions, items=items, domain="toy")
    candidates = toys.lists_for([users["u3"], users["u0"]], list(item_ids.values())[::4])
    generator = ALSGenerator(factors=4).fit(data.interactions)
    reranker = Reranker(toys.config(), ScriptedEngine()).fit(data, generator)
    result = reranker.rerank(candidates, order="fused")
    ranked = result.to_frame()
    check_ranking(ranked, candidates)
    assert {type(value) for value in ranked["item_id"]} == {type(value) for value in candidates["item_id"]}
    assert result.report.unknown_users == 0
    assert result.report.unknown_items == 0

    # The bundle gives the ids back with their types.
    reranker.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle", engine=ScriptedEngine())
    pd.testing.assert_frame_equal(loaded.rerank(candidates, order="fused").to_frame(), ranked, check_exact=True)


def test_numbers_and_their_texts_are_different_ids(reranker):
    candidates = toys.table([(1, "g0i0", 1.0), ("1", "g0i0", 2.0), (1, "g1i1", 3.0)])
    ranked = reranker.rerank(candidates, order="fused").to_frame()
    assert [len(items) for items in toys.in_order(ranked).values()] == [2, 1]


@pytest.mark.parametrize("interactions", [None, {1: ["g0i0"]}])
def test_users_of_another_type_than_those_of_fit_are_refused(reranker, interactions):
    """Of ids that a CSV turned into numbers, none would be found, and the first-stage order would be served to all."""
    numbers, texts = toys.lists_for([1, 2], CHOSEN), toys.lists_for(["u1", "u2"], CHOSEN)
    with pytest.raises(DataError, match="column 'user_id': the ids are of kind number"):
        reranker.rerank(numbers if interactions is None else texts, interactions=interactions)
    assert len(reranker.rerank(pd.concat([numbers, texts]), order="baseline")) == len(numbers) + len(texts)


def test_unknown_users_and_items_are_ranked_and_counted(reranker, caplog):
    candidates = toys.table(
        [("u1", "g0i0", 3.0), ("u1", "novelty", 2.0), ("new_user", "g0i0", 2.0), ("new_user", "other novelty", 1.0)]
    )
    result = reranker.rerank(candidates, order="fused")
    ranked = result.to_frame()
    check_ranking(ranked, candidates)
    assert result.report.unknown_users == 1
    assert result.report.unknown_items == 2
    assert "1 of 2 users have no history and 2 of 4 candidates are not in the item table" in caplog.text


def test_newer_interactions_replace_the_histories_they_contain(reranker):
    candidates = toys.lists_for(["u0", "u1"], CHOSEN)
    newer = pd.DataFrame(
        {"user_id": "u0", "item_id": ["g1i0", "g1i2", "g1i3", "g1i6"], "timestamp": [99_000, 99_001, 99_002, 99_003]}
    )
    before = reranker.rerank(candidates, order="fused").to_frame()
    after = reranker.rerank(candidates, order="fused", interactions=newer).to_frame()
    old_first, new_first = toys.in_order(before)["u0"][0], toys.in_order(after)["u0"][0]
    assert (old_first[:2], new_first[:2]) == ("g0", "g1")  # u0's taste was g0
    mapped = reranker.rerank(candidates, order="fused", interactions={"u0": newer["item_id"].tolist()}).to_frame()
    pd.testing.assert_frame_equal(mapped, after, check_exact=True)
    other = [frame[frame["user_id"] == "u1"].reset_index(drop=True) for frame in (before, after)]
    pd.testing.assert_frame_equal(*other, check_exact=True)
    again = reranker.rerank(candidates, order="fused").to_frame()  # the stored histories were not touched
    assert toys.in_order(again) == toys.in_order(before)


def test_newer_interactions_make_a_stranger_known(reranker):
    candidates = toys.lists_for(["new"], CHOSEN)
    newer = pd.DataFrame({"user_id": "new", "item_id": ["g2i1", "g2i2"]})
    assert reranker.rerank(candidates).report.unknown_users == 1
    assert reranker.rerank(candidates, interactions=newer).report.unknown_users == 0


def test_the_guard_keeps_the_first_stage_order_of_users_of_whom_too_little_is_known():
    engine = toys.WatchedEngine()
    reranker = toys.fitted(engine)
    reranker.fusion_model = toys.served(reranker.fusion_model, "fused", from_known=3)
    lists = toys.lists_for(["u0", "new_user", "u1", "new"], CHOSEN)
    engine.calls.clear()
    result = reranker.rerank(lists, interactions={"new": ["g2i1", "g2i2"], "u1": ["g2i1", "g2i2", "g2i3"]})
    ranked = result.to_frame()
    check_ranking(ranked, lists)
    assert list(result.users) == ranked["user_id"].unique().tolist()
    orders = dict(zip(result.users, result.orders, strict=True))
    assert orders == {"u0": "fused", "new_user": "first_stage", "u1": "fused", "new": "first_stage"}
    assert result.report.users_kept == 2
    assert "served: " in repr(result) and "first_stage to 2" in repr(result) and "fused to 2" in repr(result)
    read = dict(zip(result.users, result.prompt_tokens.tolist(), strict=True))
    assert {user for user in read if read[user] > 0} == {"u0", "u1"}
    histories = [prefix.split("Chosen before:")[1] for prefix in engine.prefixes()]
    assert len([one for one in histories if one]) == 2  # nothing is read for nothing
    kept = ranked[ranked["user_id"].isin(["new_user", "new"])]
    assert (kept["rank"] == kept["first_stage_rank"]).all() and (kept["score"] == kept["first_stage_score"]).all()
    scales = dict(zip(ranked["user_id"], ranked["score_scale"], strict=True))  # each row says what its score is
    assert scales == {"u0": "log_odds", "new_user": "first_stage", "u1": "log_odds", "new": "first_stage"}
    every = reranker.rerank(lists, interactions={"u1": ["g2i1", "g2i2", "g2i3"]}, order="fused")
    assert every.orders == ("fused",) * 4 and every.guard == result.orders  # who insists gets it
    for user in ("u0", "u1"):
        of_user = [frame[frame["user_id"] == user]["score"].tolist() for frame in (ranked, every.to_frame())]
        assert of_user[0] == pytest.approx(of_user[1])


def test_a_history_of_unknown_items_is_no_history(reranker):
    candidates = toys.lists_for(["u0"], CHOSEN)
    newer = pd.DataFrame({"user_id": ["u0"], "item_id": ["never heard of"]})
    result = reranker.rerank(candidates, interactions=newer, order="fused")
    ranked = result.to_frame()
    check_ranking(ranked, candidates)
    assert result.report.unknown_users == 1


@pytest.mark.parametrize("order", ORDERS)
def test_one_candidate(reranker, order):
    ranked = reranker.rerank(toys.table([("u1", "g0i0", 4.5)]), order=order).to_frame()
    assert ranked[["item_id", "rank", "first_stage_score", "first_stage_rank"]].values.tolist() == [["g0i0", 1, 4.5, 1]]


def test_five_thousand_candidates(reranker):
    ids = [*CHOSEN, *(f"unheard {number}" for number in range(4994))]
    candidates = toys.lists_for(["u1"], ids)
    result = reranker.rerank(candidates, order="fused")
    ranked = result.to_frame()
    check_ranking(ranked, candidates)
    assert result.report.unknown_items == 4994


def test_equal_scores_keep_the_first_stage_order(reranker):
    ids = [f"unheard {number}" for number in range(6)]  # nothing is known of any: the LLM reads "(untitled)"
    candidates = pd.DataFrame({"user_id": "new_user", "item_id": ids, "rank": [4, 1, 6, 2, 5, 3]})
    flat = reranker.rerank(candidates.assign(score=1.0), order="first_stage").to_frame()
    assert flat["first_stage_rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert flat["score"].nunique() == 1


def test_arerank_equals_rerank(reranker, candidates):
    async def both():
        return await asyncio.gather(reranker.arerank(candidates, 3, order="fused"), reranker.arerank(candidates))

    first, second = asyncio.run(both())
    pd.testing.assert_frame_equal(
        first.to_frame(), reranker.rerank(candidates, 3, order="fused").to_frame(), check_exact=True
    )
    pd.testing.assert_frame_equal(second.to_frame(), reranker.rerank(candidates).to_frame(), check_exact=True)


def test_rankings_at_once_load_one_engine(monkeypatch, tmp_path, candidates):
    toys.fitted().save(tmp_path / "bundle")
    loaded = []

    def load(name, model, **options):
        loaded.append(name)
        time.sleep(0.2)
        return ScriptedEngine()

    monkeypatch.setattr(lazy_engine, "load_engine", load)
    fresh = Reranker.load(tmp_path / "bundle")

    async def both():
        return await asyncio.gather(*(fresh.arerank(candidates, order="fused") for _ in range(3)))

    first, *others = asyncio.run(both())
    assert len(loaded) == 1
    for one in others:
        pd.testing.assert_frame_equal(one.to_frame(), first.to_frame())


def test_the_input_tables_are_not_touched(reranker, candidates):
    before = candidates.copy(deep=True)
    reranker.rerank(candidates, 2)
    pd.testing.assert_frame_equal(candidates, before)


@pytest.mark.parametrize("call", ["rerank", "save", "inspect", "user_ids"])
def test_an_unfitted_reranker_says_so(call, candidates, tmp_path):
    unfitted = Reranker(toys.config(), ScriptedEngine())
    calls = {
        "rerank": lambda: unfitted.rerank(candidates),
        "save": lambda: unfitted.save(tmp_path / "bundle"),
        "inspect": lambda: unfitted.inspect(candidates),
        "user_ids": lambda: unfitted.user_ids,
    }
    with pytest.raises(DataError, match="call fit"):
        calls[call]()
    assert list(tmp_path.iterdir()) == []


def test_inspect_shows_what_the_model_read(reranker, candidates):
    mine = candidates[candidates["user_id"] == "u2"]
    seen = reranker.inspect(mine, 3)
    pd.testing.assert_frame_equal(seen.ranked, reranker.rerank(mine, 3).to_frame())
    titles = dict(zip(toys.items()["item_id"], toys.items()["title"], strict=True))
    assert seen.candidate_texts == [f"\n- {titles[item]}\n" for item in seen.ranked["item_id"]]
    assert [bytes(tokens).decode() for tokens in seen.candidate_tokens] == seen.candidate_texts
    assert seen.components == ["llm_sum", "llm_mean", "llm_gain"]
    counts = [len(text) - len("\n-") for text in seen.candidate_texts]
    np.testing.assert_allclose(seen.values[:, 0] / counts, seen.values[:, 1])
    assert [span.kind for span in seen.prompt.spans] == ["domain_tokens", "instruction", "history"]
    assert seen.prompt.history_given == seen.prompt.history_kept == 5
    with pytest.raises(DataError, match="one user's list, got 4"):
        reranker.inspect(candidates)


class TestRank:
    def test_best_first_and_every_document_once(self):
        reranker = Reranker(toys.config(), ScriptedEngine())
        documents = ["mipfen vantow", "zorblax quxard", "mipfen vantow", "zorblax zomzik"]
        ranked = reranker.rank("recently watched: zorblax zomzik; zorblax", documents)
        assert sorted(one.index for one in ranked) == [0, 1, 2, 3]
        assert [one.rank for one in ranked] == [1, 2, 3, 4]
        assert [one.document for one in ranked] == [documents[one.index] for one in ranked]
        assert ranked[0].document == "zorblax zomzik"
        assert all(first.score >= second.score for first, second in pairwise(ranked))
        twins = [one for one in ranked if one.document == "mipfen vantow"]
        assert [one.index for one in twins] == [0, 2]  # equal scores keep the order that came in
        assert twins[0].score == twins[1].score

    def test_history_decides_without_a_query(self):
        reranker = Reranker(toys.config(), ScriptedEngine())
        documents = [{"title": "mipfen vantow", "category": "x"}, "zorblax quxard"]
        assert reranker.rank("", documents, history=["zorblax", "quxard"])[0].index == 1
        assert reranker.rank("", documents, history=["mipfen", {"title": "vantow"}])[0].index == 0

    def test_a_fitted_reranker_uses_what_it_learned(self, reranker):
        ranked = reranker.rank("", ["zorblax", "mipfen"], history=["zorblax zomzik"])
        listed = TextList(query="", documents=["zorblax", "mipfen"], history=["zorblax zomzik"])
        one = reranker.llm_scorer.components([listed.scoring_list(reranker.llm_scorer)])[0]
        expected = one @ reranker.fusion_model.coefficients
        assert {result.index: result.score for result in ranked} == pytest.approx(dict(enumerate(expected)))

    def test_nothing_to_rank(self):
        assert Reranker(toys.config(), ScriptedEngine()).rank("anything", []) == []

    @pytest.mark.parametrize("document", ["", "   ", {}, {"title": ""}, {"title": None}, {"name": "Alien"}, None, 5])
    def test_a_document_without_text_is_refused(self, document):
        reranker = Reranker(toys.config(), ScriptedEngine())
        with pytest.raises(DataError, match="document 1 has no text"):
            reranker.rank("query", ["fine", document])
        with pytest.raises(DataError, match="history item 0 has no text"):
            reranker.rank("query", ["fine"], history=[document])

    def test_one_string_is_not_a_list_of_documents(self):
        with pytest.raises(DataError, match="got the single text"):
            Reranker(toys.config(), ScriptedEngine()).rank("query", "a single text")
        with pytest.raises(DataError, match="history must be a list of texts, got the single text 'Alien'"):
            Reranker(toys.config(), ScriptedEngine()).rank("query", ["a text"], history="Alien")

    def test_one_item_is_no_history(self, reranker):
        with pytest.raises(DataError, match=r"interactions\['u1'\] must be a list of item ids, got the single text"):
            reranker.rerank(toys.lists_for(["u1"], ["g0i0", "g1i1"]), interactions={"u1": "g0i0"})

    @pytest.mark.parametrize("users", ["u1", b"u1"])
    def test_one_user_is_not_a_list_of_users(self, reranker, users):
        for call in (reranker.forget, reranker.adapt):
            with pytest.raises(DataError, match="users must be a list of user ids"):
                call(users)


def test_a_list_that_no_model_reads_is_inspected(candidates):
    data = toys.taste_dataset()
    reranker = Reranker(toys.config(scorer="baseline"), ScriptedEngine())
    reranker.fit(data, PopularityGenerator().fit(data.interactions))
    seen = reranker.inspect(candidates[candidates["user_id"] == "u2"])
    assert len(seen.ranked) == len(CHOSEN) and seen.values.shape == (len(CHOSEN), 0)
    assert seen.candidate_texts == [""] * len(CHOSEN) and seen.components == []


@pytest.mark.parametrize("scorer", ["likelihood", "listwise"])
@pytest.mark.parametrize("soft_tokens", [0, 4])
def test_every_scorer_fits_and_ranks(scorer, soft_tokens, candidates):
    data = toys.taste_dataset()
    reranker = Reranker(toys.config(scorer=scorer, soft_tokens=soft_tokens, permutations=2), ScriptedEngine())
    reranker.fit(data, PopularityGenerator().fit(data.interactions))
    check_ranking(reranker.rerank(candidates, order="fused").to_frame(), candidates)
    assert reranker.rank("zorblax", ["mipfen", "zorblax"])[0].rank == 1
