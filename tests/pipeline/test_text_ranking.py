"""Texts without ids: query, taste, both; what was cut and not read is told."""

import time

import numpy as np
import pytest

from reranker import Reranker
from reranker.engines.lexical import LexicalEngine
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import DataError
from reranker.pipeline.text_ranking import TextList
from tests.pipeline import toys


@pytest.fixture(scope="module")
def lexical() -> Reranker:
    return Reranker(toys.config(engine="lexical"), LexicalEngine())


@pytest.fixture(scope="module")
def scripted() -> Reranker:
    return Reranker(toys.config(), ScriptedEngine())


def ranking(reranker: Reranker, query: str, documents, **settings):
    return reranker.rank_texts([TextList(query=query, documents=documents, **settings)])[0]


def test_relevance_is_a_chance_and_the_scores_are_its_log_odds(scripted):
    found = ranking(scripted, "zorblax", ["mipfen", "zorblax zomzik", "zorblax"])
    scores = np.array([one.score for one in found.documents])
    assert [one.relevance for one in found.documents] == pytest.approx((1 / (1 + np.exp(-scores))).tolist())
    assert found.is_calibrated and found.scored_by == ("bm25", "llm")
    assert found.documents[-1].document == "mipfen" and found.documents[-1].relevance < 0.5


def test_scores_are_comparable_across_requests(lexical):
    good = ranking(lexical, "printer ink", ["black ink for printers", "a stapler"]).documents[0]
    bad = ranking(lexical, "printer ink", ["a ruler", "a stapler", "a ladder"]).documents[0]
    alone = ranking(lexical, "printer ink", ["black ink for printers"]).documents[0]
    assert good.relevance > 0.8 and alone.relevance > 0.8
    assert bad.relevance < 0.5


def test_equal_documents_have_equal_scores_and_keep_their_order(scripted):
    found = ranking(scripted, "zorblax", ["zorblax", "mipfen", "zorblax"]).documents
    assert [one.index for one in found] == [0, 2, 1]
    assert found[0].score == found[1].score


def test_history_moves_the_odds_around_relevance(scripted):
    documents = ["zorblax mipfen", "zorblax quxard", "vantow"]
    alone = ranking(scripted, "zorblax", documents)
    liked = ranking(scripted, "zorblax", documents, history=["quxard quxley", "quxley"])
    assert liked.scored_by == ("bm25", "llm", "history") and liked.is_calibrated
    assert liked.documents[0].document == "zorblax quxard"
    before = {one.index: one.score for one in alone.documents}
    moved = {one.index: one.score - before[one.index] for one in liked.documents}
    assert sum(moved.values()) == pytest.approx(0, abs=1e-9)
    assert max(moved, key=moved.__getitem__) == 1


def test_without_a_query_relevances_are_shares(scripted):
    found = ranking(scripted, "", ["mipfen", "zorblax"], history=["zorblax"])
    assert not found.is_calibrated and found.scored_by == ("llm", "history")
    assert sum(one.relevance for one in found.documents) == pytest.approx(1)
    assert found.documents[0].index == 1


def test_what_was_cut_and_not_read_is_told(lexical):
    documents = [
        {"title": "Pen", "text": "blue ink " * 400, "price": 3, "brand": "Zed"},
        {"title": "Pen", "description": "short"},
        "plain",
    ]
    found = ranking(lexical, "ink", documents, max_tokens_per_doc=100)
    assert found.cut_documents == (0,)
    assert found.fields_not_read == ("price", "brand")
    chosen = ranking(lexical, "Zed", documents[:2], fields=["brand", "title"])
    assert chosen.documents[0].index == 0 and chosen.documents[0].score > chosen.documents[1].score
    assert chosen.fields_not_read == ("text", "price", "description")
    with pytest.raises(DataError, match="document 1 has no text in the fields brand"):
        ranking(lexical, "Zed", documents[:2], fields=["brand"])


def test_title_text_and_further_fields_are_all_read(lexical):
    documents = [{"title": "Chapter 1", "text": f"It is about {what}."} for what in ("staplers", "toner", "pens")]
    assert ranking(lexical, "toner", documents).documents[0].index == 1
    by_category = [{"title": "A", "category": "Pens"}, {"title": "B", "category": "Printers"}]
    assert ranking(lexical, "printer", by_category).documents[0].index == 1
    assert ranking(lexical, "toner", [{"text": "pens"}, {"text": "toner"}]).documents[0].document == "toner"


def test_an_instruction_alone_is_the_query(lexical):
    assert ranking(lexical, " ", ["pens", "toner"], instruction="toner").documents[0].index == 1


def test_documents_of_100_000_characters(lexical):
    filler = "lorem ipsum dolor sit amet, consectetur\n" * 2500
    documents = [filler, filler + "black toner for printers", "lorem" * 20_000, "字" * 100_000]
    began = time.process_time()
    found = ranking(lexical, "toner for a printer", documents)
    assert time.process_time() - began < 20
    assert found.documents[0].index == 1 and found.documents[0].relevance > 0.5
    assert found.cut_documents == (0, 1, 3)  # the third is one word


def test_many_lists_are_ranked_like_each_by_itself(scripted):
    lists = [
        TextList(query="zorblax", documents=["mipfen", "zorblax"]),
        TextList(query="q", documents=[]),
        TextList(query="", documents=["mipfen", "zorblax"], history=["mipfen"]),
        TextList(query="mipfen", documents=["mipfen mippel", "zorblax"], history=["mippel"]),
    ]
    together = scripted.rank_texts(lists)
    assert together == [scripted.rank_texts([one])[0] for one in lists]
    assert together[1].documents == ()


def test_a_read_out_of_lists_reads_the_query_itself():
    reranker = Reranker(toys.config(scorer="listwise"), ScriptedEngine())
    found = ranking(reranker, "zorblax", ["mipfen", "zorblax"])
    assert found.scored_by == ("llm",) and not found.is_calibrated


@pytest.mark.parametrize(("query", "history", "by"), [
    ("zorblax", [], ("bm25",)),
    ("zorblax", ["zorblax"], ("bm25", "lexical", "history")),
    ("", ["zorblax"], ("lexical", "history")),
    ("", [], ("lexical",)),
])  # fmt: skip
def test_words_are_not_called_a_language_model(lexical, query, history, by):
    assert ranking(lexical, query, ["mipfen", "zorblax"], history=history).scored_by == by


def test_a_sentence_encoder_is_called_one():
    engine = LexicalEngine()
    engine.name = "encoder"
    reranker = Reranker(toys.config(engine="lexical"), engine)
    assert ranking(reranker, "", ["mipfen", "zorblax"], history=["zorblax"]).scored_by == ("encoder", "history")


BLANK = ["<p> <br></p>", "\u200b\ufeff", "&nbsp;&#8203;", "\x01"]


@pytest.mark.parametrize("query", ["zorblax", ""])
@pytest.mark.parametrize("blank", BLANK)
def test_a_document_in_which_nothing_can_be_read_is_refused_as_an_empty_one_is(scripted, query, blank):
    with pytest.raises(DataError, match="document 1 has no text"):
        ranking(scripted, query, ["zorblax", blank])
    with pytest.raises(DataError, match="document 1 has no text"):
        ranking(scripted, query, ["zorblax", {"title": blank, "text": blank}])


def test_a_text_behind_long_markup_is_read(lexical):
    documents = ["a stapler", "<br>" * 1000 + "toner"]
    assert ranking(lexical, "toner", documents).documents[0].index == 1


CHINESE = ["得力办公用品黑色中性笔签字笔学生用文具" * 10 + end for end in ("红", "蓝", "绿")]


@pytest.mark.parametrize("query", ["办公", ""])
def test_documents_that_read_alike_once_they_are_cut_are_told(lexical, query):
    found = ranking(lexical, query, ["a stapler", *CHINESE], max_tokens_per_doc=48)
    assert found.cut_documents == (1, 2, 3) and found.alike_documents == (2, 3)
    scores = {one.index: one.score for one in found.documents}
    assert scores[1] == scores[2] == scores[3]
    assert ranking(lexical, query, ["a", "b"]).alike_documents == ()


def test_documents_of_one_title_with_other_texts_are_not_alike(lexical):
    documents = [{"title": "Manual", "text": "toner"}, {"title": "Manual", "text": "ink"}, "Manual: toner"]
    for query in ("toner", ""):
        assert ranking(lexical, query, documents).alike_documents == (2,)
