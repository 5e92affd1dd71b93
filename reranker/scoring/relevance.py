"""Query relevance: how well texts answer a query, as a chance that is comparable across requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.engines import load_engine
from reranker.engines.encoder import ENCODER, LLM, WITHOUT_LM
from reranker.engines.lexical import LEXICAL
from reranker.engines.slices import in_slices, in_turns
from reranker.prompting.text import clean_text, cut_to_tokens
from reranker.protocols import ComparesTexts, Engine
from reranker.scoring import bm25
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence

MAX_TOKENS_PER_DOC = 512
"""Tokens read of a document where a request does not say."""

LEXICAL_COMPONENTS = ("bm25",)
ENCODER_COMPONENTS = ("bm25", "cosine")
COMPONENTS = ("bm25", "llm_gain")
"""What is read of a query and a document: by the lexical engine, by the encoder engine, by a language model."""

_DOCUMENT, _SEARCH, _END = "Document:", "\nSearch:", "\n"
_MARKS = 16  # tokens around document and query, at most
_READ_BY = {"cosine": ENCODER, "llm_gain": LLM}
_TEXTS = 32  # that an encoder reads in one turn
_SAMPLE = 4000  # characters of a long document that tell how many tokens its words take


@dataclass(frozen=True, kw_only=True)
class QueryDocuments:
    """A query and the texts that may answer it.

    Attributes:
        query: what is asked for; not empty.
        documents: (heading, body) of each; the heading (a title) is read before whatever is read of the body.
        instruction: stands before each document where a language model reads it.
        max_tokens_per_doc: tokens read of a document; of a longer one the best window is read.
    """

    query: str
    documents: Sequence[tuple[str, str]]
    instruction: str = ""
    max_tokens_per_doc: int = MAX_TOKENS_PER_DOC


@dataclass(frozen=True, kw_only=True, eq=False)
class RelevanceReading:
    """What was read of a query's documents.

    Attributes:
        components: (n_documents, n_components): `COMPONENTS`, `ENCODER_COMPONENTS` or `LEXICAL_COMPONENTS`.
        log_odds: (n_documents,) that the document answers the query, calibrated: 0 is an even chance.
        prompt_tokens: that the model read.
        cut: numbers of documents that were not read whole.
        alike: numbers of documents that read like one before them.
        query_cut: the model read the beginning of the query alone.
        read_by: what the relevance goes by: "bm25", and "encoder" or "llm" behind it.
    """

    components: NDArray[np.float64]
    log_odds: NDArray[np.float64]
    prompt_tokens: int
    cut: tuple[int, ...]
    alike: tuple[int, ...]
    query_cut: bool
    read_by: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Logistic regression from components to the log-odds of relevance.

    Attributes:
        intercept: log-odds of a text of which every component is 0.
        weights: component -> log-odds a unit.
    """

    intercept: float
    weights: Mapping[str, float]

    def log_odds(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) from (n, n_components)."""
        log_odds: NDArray[np.float64] = self.intercept + components @ np.array(list(self.weights.values()))
        return log_odds


LEXICAL_CALIBRATION = Calibration(intercept=-0.40, weights={"bm25": 4.66})
ENCODER_CALIBRATION = Calibration(intercept=-1.52, weights={"bm25": 2.34, "cosine": 5.86})
LLM_CALIBRATION = Calibration(intercept=-0.82, weights={"bm25": 2.46, "llm_gain": 0.27})
"""Logistic regressions on pairs of query and text, right and wrong texts of a set weighing the same: .5 is an even
chance where as many texts are right as wrong. `eval.texts` makes such sets. Words and LLM: 2,800 pairs (140 queries, 20
texts each: titles of office products against descriptions, with the title's words and without, categories of groceries
and anime and authors of books against titles; smollm2-135m). Encoder: 40,000 pairs (800 queries, 50 texts each: titles
of office products against descriptions, categories of groceries, anime, office products and films against titles, each
with the query's words and without; MiniLM), the weight of BM25 being held at .4 of the cosine's, since half of the sets
leave the words out, which requests do not. The scales hold for these models; others are read by the same weights."""


def repeated(texts: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the texts that are equal to one before them."""
    first: dict[str, int] = {}
    return tuple(number for number, text in enumerate(texts) if first.setdefault(text, number) != number)


class QueryRelevance:
    """BM25 of the words, and what a model says of query and document.

    A causal LM tells relevance by the likelihood of the query behind the document, log p(query | document) (Ponte &
    Croft 1998; Sachan et al. 2022 with LMs), here less that behind no document, over the root of the query's length:
    tokens of one query tell much the same. A sentence encoder compares query and document by the cosine of their
    vectors; queries in a language that it does not know are left to another engine. With the lexical engine words
    alone count.

    Args:
        engine: reads queries behind documents, or compares the two.
        query_tokens: that the model reads of a query.
        otherwise: gives the engine for queries that a sentence encoder does not know; by default words alone count for
            these.
    """

    def __init__(self, engine: Engine, query_tokens: int = 64, otherwise: Callable[[], Engine] | None = None) -> None:
        self._engine = engine
        self._query_tokens = query_tokens
        self._otherwise = otherwise or (lambda: load_engine(LEXICAL))

    def read(self, requests: Sequence[QueryDocuments]) -> list[RelevanceReading]:
        """Reads all documents of all requests together. A document's reading does not depend on the order of the
        others; its BM25 depends on which others there are, as what is rare does."""
        if isinstance(self._engine, ComparesTexts):
            return self._compared(self._engine, requests)
        lists = [_Prepared(request, self._engine, self._query_tokens) for request in requests]
        if self._engine.name in WITHOUT_LM:
            return [one.reading([one.lexical], LEXICAL_CALIBRATION, 0) for one in lists]
        asked = [one.scoring_requests() for one in lists]
        scores = iter(in_slices(self._engine.span_log_likelihoods, [request for part in asked for request in part]))
        readings = []
        for one, part in zip(lists, asked, strict=True):
            sums = np.array([next(scores).sums[0] for _ in part])
            gain = (sums[1:] - sums[0]) / np.sqrt(one.query_length)
            tokens = sum(request.tokens for request in part)
            readings.append(one.reading([one.lexical, gain], LLM_CALIBRATION, tokens))
        return readings

    def _compared(self, engine: ComparesTexts, requests: Sequence[QueryDocuments]) -> list[RelevanceReading]:
        """By cosines; all texts are read together, each once."""
        known = [_is_known(engine, clean_text(request.query, None)) for request in requests]
        lists = [
            _Prepared(request, self._engine, self._query_tokens)
            for request, reads in zip(requests, known, strict=True)
            if reads
        ]
        texts = list(dict.fromkeys(text for one in lists for text in (one.query, *one.texts)))
        texts.sort(key=len)  # alike lengths in one batch
        batches = [texts[start : start + _TEXTS] for start in range(0, len(texts), _TEXTS)]
        read = [engine.text_vectors(batch) for batch in in_turns(batches)]
        vectors = dict(zip(texts, np.concatenate(read), strict=True)) if read else {}
        lengths = {text: len(engine.text_tokenizer.encode(text)) for text in in_turns(texts)}
        readings = []
        for one in lists:
            cosines = np.array([vectors[one.query] @ vectors[text] for text in one.texts], dtype=np.float64)
            tokens = sum(lengths[text] for text in (one.query, *one.texts))
            readings.append(one.reading([one.lexical, cosines], ENCODER_CALIBRATION, tokens))
        if all(known):
            return readings
        others = [request for request, reads in zip(requests, known, strict=True) if not reads]
        mine, rest = iter(readings), iter(QueryRelevance(self._otherwise(), self._query_tokens).read(others))
        return [next(mine if reads else rest) for reads in known]


def _is_known(engine: ComparesTexts, query: str) -> bool:
    """Whether most letters of a query stand in tokens that can mean something: known ones of two letters or more, or
    known signs of a script without spaces. An English encoder spells Russian by letters and knows little Chinese."""
    seen = known = 0
    for piece, is_known in engine.text_pieces(query):
        seen += len(piece)
        if is_known and (len(piece) > 1 or not piece.isalpha() or bm25.is_unspaced(piece)):
            known += len(piece)
    return 2 * known >= seen


class _Prepared:
    """The texts of one request, cleaned and cut."""

    def __init__(self, request: QueryDocuments, engine: Engine, query_tokens: int) -> None:
        encoder = engine if isinstance(engine, ComparesTexts) else None
        self._tokenizer = encoder.text_tokenizer if encoder else engine.tokenizer
        query = clean_text(request.query, None)
        self.query = cut_to_tokens(query, query_tokens, self._tokenizer)
        self.query_cut = self.query != query and (encoder is not None or engine.name not in WITHOUT_LM)
        self._instruction = cut_to_tokens(clean_text(request.instruction), query_tokens, self._tokenizer)
        room = encoder.max_text_tokens if encoder else engine.model.max_length - 2 * query_tokens - _MARKS
        self._budget = max(1, min(request.max_tokens_per_doc, room))
        words = bm25.words_of(query)
        cleaned = [(clean_text(head, None), clean_text(body, None)) for head, body in in_turns(request.documents)]
        parts = [self._windows(*one) for one in in_turns(cleaned)]
        stretches = [f"{head} {part}" for head, body in parts for _, part in body]
        shares = bm25.relevance(words, [bm25.words_of(one) for one in in_turns(stretches)])
        ends = np.cumsum([len(body) for _, body in parts])[:-1]
        self.texts: list[str] = []
        self.cut: list[int] = []
        best_shares = []
        for number, ((head, body), scores) in enumerate(in_turns(zip(parts, np.split(shares, ends), strict=True))):
            best = int(np.argmax(scores))
            text, whole = self._within_budget(head, cleaned[number][1][body[best][0] :], len(body) == 1)
            best_shares.append(scores[best])
            self.texts.append(text)
            if not whole or head != cleaned[number][0]:
                self.cut.append(number)
        self.lexical = np.array(best_shares)

    @property
    def query_length(self) -> int:
        """Tokens of the query as the model reads it, its end included."""
        return max(1, len(self._span.sequence) - self._span.scored_from)

    def scoring_requests(self) -> list[ScoringRequest]:
        """The query behind no document, then behind each."""
        span = self._span
        before = f"{self._instruction}\n" if self._instruction else ""
        prefixes = [before + _DOCUMENT, *(f"{before}{_DOCUMENT} {text}" for text in self.texts)]
        return [ScoringRequest(prefix=self._tokens(prefix), candidates=(span,)) for prefix in in_turns(prefixes)]

    def reading(
        self, components: Sequence[NDArray[np.float64]], calibration: Calibration, tokens: int
    ) -> RelevanceReading:
        table = np.stack(components, axis=1)
        return RelevanceReading(
            components=table,
            log_odds=calibration.log_odds(table),
            prompt_tokens=tokens,
            cut=tuple(self.cut),
            alike=repeated(self.texts),
            query_cut=self.query_cut,
            read_by=tuple(_READ_BY.get(name, name) for name in calibration.weights),
        )

    @property
    def _span(self) -> CandidateSpan:
        cue = self._tokens(_SEARCH)
        query = self._tokens(f" {self.query}" if self.query else "")
        sequence = TokenSequence.concatenate([cue, query, self._tokens(_END)])
        return CandidateSpan(sequence=sequence, scored_from=len(cue))

    def _windows(self, head: str, body: str) -> tuple[str, list[tuple[int, str]]]:
        """The heading, in a quarter of the budget where the two do not fit, and where the body can be read from."""
        if self._fits(head, body):
            return head, [(0, body)]
        if body:
            head = cut_to_tokens(head, max(1, self._budget // 4), self._tokenizer)
        sample = body[:_SAMPLE]
        tokens_a_word = len(self._tokenizer.encode(sample)) / max(1, bm25.count_words(sample))
        room = self._budget - len(self._tokenizer.encode(head)) - 1
        return head, bm25.windows(body, max(1, int(room / max(tokens_a_word, 1.0))))

    def _within_budget(self, head: str, body: str, is_whole: bool) -> tuple[str, bool]:
        joined = _joined(head, body)
        text = cut_to_tokens(joined, self._budget, self._tokenizer)
        return text, is_whole and text == joined

    def _fits(self, head: str, body: str) -> bool:
        text = _joined(head, body)
        # A word takes a token at least, and few more than ten characters: long texts are not tokenised to the end.
        return len(text) <= 16 * self._budget and cut_to_tokens(text, self._budget, self._tokenizer) == text

    def _tokens(self, text: str) -> TokenSequence:
        return TokenSequence.from_tokens(self._tokenizer.encode(text))


def _joined(head: str, body: str) -> str:
    return f"{head}: {body}" if head and body else head or body
