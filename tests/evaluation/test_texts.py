"""Retrieval sets and the table of texts, on a small catalogue and without a model."""

import numpy as np
import pandas as pd
import pytest

from eval.text_sets import POOL, POOLS, categories, retrieval_sets
from eval.texts import ENCODED, LLM, WORDS, MergingEngine, calibrated, checks, interval, judge_set, ndcg_at_k
from reranker.engines import load_engine
from reranker.engines.lexical import LexicalEngine
from reranker.engines.scripted import ScriptedEngine
from reranker.scoring import relevance
from reranker.scoring.relevance import QueryDocuments, QueryRelevance
from tests.engines.tiny_encoder import write_encoder


@pytest.fixture(scope="module")
def sets():
    n = POOL * POOLS
    items = pd.DataFrame(
        {
            "item_id": range(n),
            "title": [f"Widget w{number} kind{number % 40}" for number in range(n)],
            "category": [f"Kind{number % 40};Part{number % 7}" for number in range(n)],
            "description": [
                f"This w{number} is one of many good things that people buy, number {number}." for number in range(n)
            ],
        }
    )
    return {one.kind: one for one in retrieval_sets("toy", items, 50)}


def test_sets_hold_what_they_say(sets):
    assert list(sets) == ["description", "description-hard", "category", "category-hard"]
    for one in sets.values():
        assert len(one.pools) == POOLS
        assert all(len(pool.queries) == 5 and len(pool.texts) == POOL for pool in one.pools)
        assert all(pool.relevant.any(axis=1).all() for pool in one.pools)
    plain, hard = sets["description"].pools[0], sets["description-hard"].pools[0]
    assert plain.queries == hard.queries
    assert plain.relevant.sum() == len(plain.queries)
    answer = int(plain.relevant[0].argmax())
    number = plain.queries[0].split()[1]
    assert number in plain.texts[answer] and number not in hard.texts[answer] and "good things" in hard.texts[answer]
    assert categories("A; b|A") == {"a", "b"}


def test_items_without_descriptions_or_categories_give_no_sets():
    items = pd.DataFrame({"item_id": range(1000), "title": [f"t{number}" for number in range(1000)]})
    assert retrieval_sets("toy", items, 50) == []


def test_words_find_descriptions_and_not_those_without_the_titles_words(sets):
    easy = judge_set(sets["description"], LexicalEngine(), None)
    hard = judge_set(sets["description-hard"], LexicalEngine(), None)
    assert easy.ndcg["bm25"].mean() == easy.ndcg[WORDS].mean() == easy.ndcg[LLM].mean() == 1
    assert hard.ndcg["bm25"].mean() < 0.4
    assert easy.components[WORDS].shape == (50 * POOL, 1) and easy.relevant.sum() == 50
    found = checks([easy, hard])
    assert [one.verdict for one in found] == ["-", "-", "FAIL"]  # in the LM's place are the same words
    intercept, weight = calibrated([easy], WORDS)
    assert intercept < 0 < weight


def test_an_encoder_is_judged_by_its_cosines_and_as_it_is_served(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(relevance, "_is_known", lambda engine, query: True)  # ten words are all that this one knows
    encoder = load_engine("encoder", encoder=write_encoder(tmp_path / "tiny-bert"))
    one = judge_set(sets["description"], LexicalEngine(), encoder)
    assert one.components[ENCODED].shape == (50 * POOL, 2)
    assert one.ndcg[ENCODED].mean() > one.ndcg["minilm"].mean()  # random weights, but words beside them
    compared = [check.name.partition(": ")[2].partition(" (")[0] for check in checks([one]) if check.target]
    assert [name.partition(",")[0] for name in compared] == [
        "served by encoder over bm25",
        "served by encoder over minilm",
        "served by llm over bm25",
        "served by llm over minilm",
    ]
    assert len(calibrated([one], ENCODED)) == 3


def test_ndcg_by_hand_and_ties_at_random():
    relevant = np.array([[True, False, False], [False, False, True]])
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert ndcg_at_k(scores, relevant, np.random.default_rng(0)) == pytest.approx([1, 1 / np.log2(4)])
    rng = np.random.default_rng(0)
    tied = [ndcg_at_k(np.zeros((1, 3)), relevant[:1], rng)[0] for _ in range(600)]
    assert np.mean(tied) == pytest.approx((1 + 1 / np.log2(3) + 0.5) / 3, abs=0.03)


def test_intervals_resample_groups_whole():
    values, alone = np.array([0.0, 1.0] * 20), np.arange(40)
    mean, low, high = interval(values, alone)
    assert mean == 0.5 and 0.3 < low < 0.4 and 0.6 < high < 0.7
    assert interval(values, alone % 2)[1:] == (0, 1)


def test_merged_readings_are_those_of_each_request():
    asked = [QueryDocuments(query=query, documents=[("", "toner"), ("", "pens")]) for query in ("ink", "toner black")]
    plain = QueryRelevance(ScriptedEngine()).read(asked)
    merged = QueryRelevance(MergingEngine(ScriptedEngine())).read(asked)
    assert [one.components.tolist() for one in merged] == [one.components.tolist() for one in plain]
