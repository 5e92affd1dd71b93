"""Relevance of texts to a query, by words and by a model that is a plain function."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from reranker.engines import load_engine
from reranker.engines.lexical import LexicalEngine
from reranker.engines.scripted import ScriptedEngine
from reranker.protocols import ComparesTexts, Engine
from reranker.scoring import relevance
from reranker.scoring.relevance import (
    COMPONENTS,
    ENCODER_CALIBRATION,
    ENCODER_COMPONENTS,
    LEXICAL_CALIBRATION,
    LEXICAL_COMPONENTS,
    LLM_CALIBRATION,
    QueryDocuments,
    QueryRelevance,
    RelevanceReading,
)
from reranker.types import IntArray, ScoringRequest, SpanScores
from tests.engines.tiny_encoder import write_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A sentence encoder of random weights."""
    return load_engine("encoder", encoder=write_encoder(tmp_path_factory.mktemp("encoder") / "tiny-bert"))


class Watched(ScriptedEngine):
    """Remembers the prompts, and finds a query likely behind a text with a "t"."""

    def __init__(self, **options: int) -> None:
        super().__init__(self._log_prob_of, **options)
        self.prompts: list[tuple[str, str]] = []

    @staticmethod
    def _log_prob_of(prefix: IntArray, span: IntArray) -> NDArray[np.float64]:
        return np.full(len(span), -1.0 if ord("t") in prefix[len("Document:") :] else -3.0)

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        for request in requests:
            (candidate,) = request.candidates
            texts = [bytes(ids.token_ids.tolist()).decode() for ids in (request.prefix, candidate.sequence)]
            self.prompts.append((texts[0], texts[1]))
        return super().span_log_likelihoods(requests)


def read(engine: Engine, query: str, *documents: str, **settings: int) -> RelevanceReading:
    asked = QueryDocuments(query=query, documents=[("", one) for one in documents], **settings)
    return QueryRelevance(engine).read([asked])[0]


def test_a_model_reads_the_query_behind_each_document_and_behind_none() -> None:
    engine = Watched()
    found = read(engine, "ink", "pens", "toner")
    assert engine.prompts == [
        ("Document:", "\nSearch: ink\n"),
        ("Document: pens", "\nSearch: ink\n"),
        ("Document: toner", "\nSearch: ink\n"),
    ]
    assert found.components.tolist() == [[0, 0], [0, 2 * 5 / 5**0.5]]  # (-1 + 3) nats a token of "·ink\n"
    assert found.prompt_tokens == sum(len(prefix) + len(span) for prefix, span in engine.prompts)
    assert found.log_odds[1] - found.log_odds[0] == pytest.approx(2 * 5**0.5 * LLM_CALIBRATION.weights["llm_gain"])
    assert (found.cut, found.query_cut) == ((), False)


def test_calibrations_have_a_positive_weight_for_each_component() -> None:
    for names, calibration in (
        (COMPONENTS, LLM_CALIBRATION),
        (ENCODER_COMPONENTS, ENCODER_CALIBRATION),
        (LEXICAL_COMPONENTS, LEXICAL_CALIBRATION),
    ):
        assert tuple(calibration.weights) == names
        assert min(calibration.weights.values()) > 0
        assert calibration.intercept < 0  # a text that shares nothing is rather no answer


def test_the_lexical_engine_reads_words_alone() -> None:
    found = read(LexicalEngine(), "printer ink", "a fountain pen", "Printer inks, black", "for the it")
    assert found.components.shape == (3, 1)
    assert found.prompt_tokens == 0
    assert found.log_odds.argmax() == 1 and found.log_odds[1] > 0 > found.log_odds[0] == found.log_odds[2]


def test_an_encoder_compares_query_and_document(encoder: Engine) -> None:
    assert isinstance(encoder, ComparesTexts)
    found = read(encoder, "red lamp", "red lamp", "blue chair", "")
    query, chair = encoder.text_vectors(["red lamp", "blue chair"])
    np.testing.assert_allclose(found.components, [[1, 1], [0, query @ chair], [0, 0]], atol=1e-5)
    weights = ENCODER_CALIBRATION.weights
    expected = ENCODER_CALIBRATION.intercept + weights["bm25"] + weights["cosine"]
    assert found.log_odds[0] == pytest.approx(expected, abs=1e-4)
    assert found.prompt_tokens == 2 + 2 + 2 + 0
    assert (found.cut, found.query_cut, found.alike) == ((), False, ())


def test_an_encoder_reads_the_best_window_in_its_own_tokens_and_says_what_it_did_not_read(encoder: Engine) -> None:
    assert isinstance(encoder, ComparesTexts)
    long = "chair " * 2000 + "red lamp " + "chair " * 2000
    found = read(encoder, "red lamp", "blue", long, max_tokens_per_doc=10_000)
    assert found.cut == (1,) and found.components[1, 0] > found.components[0, 0] == 0
    assert found.prompt_tokens <= 2 + 1 + encoder.max_text_tokens == 2 + 1 + 510
    short = read(encoder, "red lamp", "blue", long, max_tokens_per_doc=5)
    assert short.cut == (1,) and short.prompt_tokens == 2 + 1 + 5
    assert read(encoder, "red " * 500, "blue").query_cut


@pytest.mark.parametrize("query", ["打印机墨水", "принтер", "red toner cartridges"])
def test_a_query_that_the_encoder_does_not_know_is_left_to_another_engine(encoder: Engine, query: str) -> None:
    asked = [
        QueryDocuments(query=query, documents=[("", f"red {query}"), ("", "blue")]),
        QueryDocuments(query="red", documents=[("", "red"), ("", "blue")]),
    ]
    unknown, known = QueryRelevance(encoder).read(asked)
    words = QueryRelevance(LexicalEngine()).read(asked[:1])[0]
    assert (unknown.read_by, known.read_by) == (("bm25",), ("bm25", "encoder"))
    np.testing.assert_array_equal(unknown.log_odds, words.log_odds)
    by_model = QueryRelevance(encoder, otherwise=Watched).read(asked)[0]
    assert by_model.read_by == ("bm25", "llm")
    assert by_model.log_odds.tolist() == QueryRelevance(Watched()).read(asked[:1])[0].log_odds.tolist()


def test_signs_of_a_script_without_spaces_that_the_encoder_knows_are_read() -> None:
    class Chinese:
        def text_pieces(self, text: str) -> list[tuple[str, bool]]:
            return [(sign, sign != "笔") for sign in text]

    assert relevance._is_known(Chinese(), "墨水笔") and not relevance._is_known(Chinese(), "笔笔墨")
    assert not relevance._is_known(Chinese(), "тушь") and relevance._is_known(Chinese(), "42")


def test_an_encoder_reads_several_requests_like_each_by_itself(encoder: Engine) -> None:
    asked = [
        QueryDocuments(query="red", documents=[("", "red lamp"), ("", "blue")]),
        QueryDocuments(query="blue", documents=[("chair", "red")]),
    ]
    together = QueryRelevance(encoder).read(asked)
    for one, found in zip(asked, together, strict=True):
        np.testing.assert_allclose(found.log_odds, QueryRelevance(encoder).read([one])[0].log_odds, atol=1e-5)
    assert QueryRelevance(encoder).read([]) == []


def test_of_a_long_document_the_window_that_answers_best_is_read() -> None:
    filler = "lorem ipsum dolor sit amet "
    long = filler * 2000 + "black toner for printers " + filler * 2000
    engine = Watched()
    found = read(engine, "printer toner", "lorem ipsum", long, max_tokens_per_doc=200)
    text = engine.prompts[2][0].removeprefix("Document: ")
    assert "black toner for printers" in text and 100 < len(text.encode()) < 200
    assert found.cut == (1,)
    assert found.components[1, 0] > 0.4 and found.components[0, 0] == 0


def test_the_heading_stays_in_front_of_the_window() -> None:
    engine = Watched()
    body = "lorem ipsum " * 500 + "toner"
    asked = QueryDocuments(query="toner", documents=[("Office", body), ("Office", "pens")], max_tokens_per_doc=60)
    found = QueryRelevance(engine).read([asked])[0]
    assert engine.prompts[1][0].startswith("Document: Office: lorem") and engine.prompts[1][0].endswith("toner")
    assert engine.prompts[2][0] == "Document: Office: pens"
    assert found.cut == (0,)


def test_texts_that_differ_behind_the_sixteenth_word_differ() -> None:
    same = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    found = read(LexicalEngine(), "toner", same + "pens", same + "toner")
    assert found.log_odds[1] > found.log_odds[0]


def test_chinese_is_read_by_characters_and_whole() -> None:
    beginning = "这是一种办公室里每天都会用到的很方便的产品质量很好价格便宜"
    found = read(LexicalEngine(), "打印机墨水", beginning + "钢笔", beginning + "打印机专用墨水")
    assert found.log_odds[1] > 0 > found.log_odds[0]


def test_several_requests_are_read_like_each_by_itself() -> None:
    asked = [
        QueryDocuments(query="ink", documents=[("", "toner"), ("", "pens")]),
        QueryDocuments(query="a very long query", documents=[("t", "shirts")], instruction="find clothes"),
    ]
    together = QueryRelevance(Watched()).read(asked)
    for one, found in zip(asked, together, strict=True):
        alone = QueryRelevance(Watched()).read([one])[0]
        assert found.log_odds.tolist() == alone.log_odds.tolist()


def test_an_instruction_stands_before_the_documents_and_is_not_scored() -> None:
    engine = Watched()
    QueryRelevance(engine).read([QueryDocuments(query="ink", documents=[("", "pens")], instruction="find goods")])
    assert [prefix for prefix, _ in engine.prompts] == ["find goods\nDocument:", "find goods\nDocument: pens"]


def test_a_query_that_is_too_long_is_cut_and_told() -> None:
    engine = Watched()
    found = read(engine, "word " * 50, "pens")
    assert found.query_cut and engine.prompts[0][1] == "\nSearch: " + ("word " * 12).strip() + "\n"
    assert not read(LexicalEngine(), "word " * 500, "pens").query_cut  # words are all read


def test_the_context_window_bounds_a_document() -> None:
    engine = Watched(max_length=300)
    found = read(engine, "q", "pens " * 1000, max_tokens_per_doc=10_000)
    assert found.cut == (0,)
    assert max(len(prefix) + len(span) for prefix, span in engine.prompts) <= 300
