"""Ranking of texts that belong to no catalogue: relevance to a query, and taste where a history is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.data.catalog import LONGEST_HISTORY, Item
from reranker.data.schema import CATEGORY, DESCRIPTION, TITLE, refuse_single
from reranker.engines.encoder import reader_of
from reranker.engines.slices import in_turns
from reranker.errors import DataError
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.prompting.text import clean_text, cut_to_tokens, field_text, is_blank
from reranker.scoring import ListScores, ScoringList
from reranker.scoring.relevance import (
    MAX_TOKENS_PER_DOC,
    QueryDocuments,
    RelevanceReading,
    repeated,
)
from reranker.types import UserState

TEXT = "text"
DOCUMENT_FIELDS = (TITLE, CATEGORY, DESCRIPTION, TEXT)
"""Fields of a document that are read where a list names no others."""


@dataclass(frozen=True, kw_only=True)
class RankedDocument:
    """One document of `Reranker.rank`.

    Attributes:
        index: position of the document in the list that came in.
        document: its title and text.
        score: log-odds. Of relevance where there is a query; else against the other documents, and only differences
            mean anything.
        relevance: `score` between 0 and 1. With a query, the chance that the document answers it, comparable across
            requests; without one, the share of the list's chance.
        rank: 1 is best.
    """

    index: int
    document: str
    score: float
    relevance: float
    rank: int


@dataclass(frozen=True, kw_only=True)
class TextRanking:
    """What `Reranker.rank_texts` made of one list.

    Attributes:
        documents: best first.
        prompt_tokens: that the model read.
        scored_by: what the order goes by: "bm25", what read the texts ("lexical", "encoder" or "llm"), "history".
        is_calibrated: `relevance` is a chance by itself, not a share of the list.
        cut_documents: numbers of documents that were not read whole: the window that answers the query best was, or
            without a query the beginning of the title.
        alike_documents: numbers of documents of which the same was read as of one before them; they have its score.
        is_query_cut: the model read the beginning of the query alone.
        fields_not_read: fields of the documents that were not read.
    """

    documents: tuple[RankedDocument, ...] = ()
    prompt_tokens: int = 0
    scored_by: tuple[str, ...] = ()
    is_calibrated: bool = False
    cut_documents: tuple[int, ...] = ()
    alike_documents: tuple[int, ...] = ()
    is_query_cut: bool = False
    fields_not_read: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class TextList:
    """Texts to rank, without ids.

    Attributes:
        query: what is asked for, or "recently watched: ...".
        documents: texts, or items with `title` or `text` and further fields.
        history: titles or items chosen before, oldest first.
        state: the user's adapted context; without it one starts from the text of the history.
        instruction: stands before the query where a language model reads it.
        max_tokens_per_doc: tokens read of a document for the query; of a longer one the best window is read.
        fields: of documents that are items, in this order; `DOCUMENT_FIELDS` by default.
    """

    query: str
    documents: Sequence[str | Item]
    history: Sequence[str | Item] = ()
    state: UserState | None = None
    instruction: str = ""
    max_tokens_per_doc: int | None = None
    fields: Sequence[str] | None = None

    def scoring_list(self, scorer: LLMScorer, query: str | None = None) -> ScoringList:
        """What the scorer gets, with the soft tokens that the scorer has for domain and user.

        Raises:
            DataError: a document or history item without text, or one string instead of several.
        """
        refuse_single(self.history, "texts", "history")
        history = [_as_item(one, "history item", number) for number, one in enumerate(self.history)][-LONGEST_HISTORY:]
        return ScoringList(
            history=history,
            candidates=self.items(),
            soft_prompt=scorer.soft_prompt(),
            user_tokens=scorer.user_tokens(history, self.state),
            query=query,
        )

    def items(self) -> list[Item]:
        """The documents, each with a title.

        Raises:
            DataError: a document without text, or one string instead of several.
        """
        refuse_single(self.documents, "texts", "documents")
        return [_as_item(one, "document", number) for number, one in enumerate(self.documents)]

    def require_text(self) -> None:
        """Refuses a document in which nothing can be read.

        Raises:
            DataError: as `items`, or a document holds markup and invisible characters alone.
        """
        for number, item in in_turns(list(enumerate(self.items()))):
            if is_blank(field_text(item[TITLE])):
                raise DataError(f"document {number} has no text: it holds markup or invisible characters alone")

    @property
    def question(self) -> str:
        """The query, or the instruction where there is none; "" for neither."""
        return (self.query if self.query.strip() else self.instruction).strip()

    def question_and_documents(self) -> QueryDocuments:
        """What relevance is read of.

        Raises:
            DataError: none of the chosen fields of a document holds text.
        """
        self.items()
        instruction = self.instruction if self.query.strip() else ""
        return QueryDocuments(
            query=self.question,
            documents=[self._parts(one, number) for number, one in in_turns(list(enumerate(self.documents)))],
            instruction=instruction,
            max_tokens_per_doc=self.max_tokens_per_doc or MAX_TOKENS_PER_DOC,
        )

    def fields_not_read(self) -> tuple[str, ...]:
        """Fields that hold something and that `question_and_documents` leaves out."""
        fields = DOCUMENT_FIELDS if self.fields is None else self.fields
        there = [name for one in self.documents if isinstance(one, Mapping) for name, value in one.items() if value]
        return tuple(dict.fromkeys(str(name) for name in there if name not in fields))

    def _parts(self, document: str | Item, number: int) -> tuple[str, str]:
        """Heading and body."""
        if isinstance(document, str):
            return "", document
        fields = DOCUMENT_FIELDS if self.fields is None else self.fields
        parts = heading_and_body(document, fields)
        if all(map(is_blank, parts)):
            raise DataError(f"document {number} has no text in the fields {', '.join(fields)}: it has {list(document)}")
        return parts


def heading_and_body(item: Item, fields: Sequence[str]) -> tuple[str, str]:
    """The title, where it is among the fields, and the other fields in a row; ("", text) where there is but one."""
    values = {name: field_text(item.get(name)).strip() for name in fields}
    head = values.pop(TITLE, "")
    body = ". ".join(value for value in dict.fromkeys(values.values()) if value and value != head)
    return (head, body) if body else ("", head)


def rank_texts(
    scorer: LLMScorer, lists: Sequence[TextList], coefficients: NDArray[np.float64] | None = None
) -> list[TextRanking]:
    """Ranks each list; all that the model has to read goes to the engine together.

    With a query a document's score is the log-odds of its relevance (`QueryRelevance`). Where there is a history, too,
    what the history says of the documents is added, its mean over the list taken out: the two count as independent
    statistics, with the weights that the scorer has where nothing was learned. Without a query the scorer alone
    decides. A scorer of labels or lists reads the query by itself, as a Reranker that was set so has to.

    Args:
        scorer: engine, prompts and scorer.
        lists: with any number of documents.
        coefficients: what `fit` learned for the scorer's components; its own defaults without.

    Raises:
        DataError: a document or history item without text, or one string instead of several.
    """
    reader = scorer.of_texts
    asks = [bool(one.question) and "likelihood" in reader.config.scorer for one in lists]
    for one in lists:
        one.require_text()
    wanted = [number for number, one in enumerate(lists) if len(one.documents)]
    asked = [number for number in wanted if asks[number]]
    by_history = [number for number in wanted if not asks[number] or len(lists[number].history)]
    weights = reader.scorer.default_coefficients if coefficients is None and by_history else coefficients
    queries = [None if asks[number] else _whole_query(lists[number]) for number in by_history]
    parts = [lists[number].scoring_list(reader, query) for number, query in zip(by_history, queries, strict=True)]
    read = dict(zip(by_history, reader.read(parts), strict=True)) if parts else {}
    relevance = reader.relevance if asked else None
    found = relevance.read([lists[number].question_and_documents() for number in asked]) if relevance else []
    relevances = dict(zip(asked, found, strict=True))
    return [
        _ranking(one, relevances.get(number), read.get(number), weights, reader) if number in wanted else TextRanking()
        for number, one in enumerate(lists)
    ]


def _ranking(
    one: TextList,
    relevance: RelevanceReading | None,
    read: ListScores | None,
    weights: NDArray[np.float64] | None,
    scorer: LLMScorer,
) -> TextRanking:
    scores = np.zeros(len(one.documents))
    tokens = 0
    by: list[str] = []
    if relevance is not None:
        scores += relevance.log_odds
        tokens += relevance.prompt_tokens
        by += relevance.read_by
    if read is not None and weights is not None:
        taste = read.components @ weights
        scores += taste if relevance is None else taste - taste.mean()
        tokens += read.prompt_tokens
        by += [] if reader_of(scorer.engine.name) in by else [reader_of(scorer.engine.name)]
        by += ["history"] if one.history else []
    shares = 1.0 / (1.0 + np.exp(-scores))
    if relevance is None:
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
    texts = [str(item[TITLE]) for item in one.items()]
    cut, alike = _cut_and_alike(one, scorer) if relevance is None else (relevance.cut, relevance.alike)
    return TextRanking(
        documents=tuple(
            RankedDocument(
                index=int(index),
                document=texts[index],
                score=float(scores[index]),
                relevance=float(shares[index]),
                rank=place + 1,
            )
            for place, index in enumerate(np.argsort(-scores, kind="stable"))
        ),
        prompt_tokens=tokens,
        scored_by=tuple(by),
        is_calibrated=relevance is not None,
        cut_documents=cut,
        alike_documents=alike,
        is_query_cut=relevance is not None and relevance.query_cut,
        fields_not_read=() if relevance is None else one.fields_not_read(),
    )


def _cut_and_alike(one: TextList, scorer: LLMScorer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Documents of which the scorer, which reads titles, read the beginning; those that read like one before them.

    Category and description are read where a template has them: titles alone make no two documents alike then.
    """
    most, tokenizer = scorer.config.prompt.title_tokens, scorer.engine.tokenizer
    items = one.items()
    titles = [clean_text(str(item[TITLE]), None) for item in items]
    read = [cut_to_tokens(title, most, tokenizer) for title in titles]
    others = [tuple(field_text(item.get(name)) for name in (CATEGORY, DESCRIPTION)) for item in items]
    cut = tuple(number for number, title in enumerate(titles) if read[number] != title)
    return cut, repeated([repr(both) for both in zip(read, others, strict=True)])


def _whole_query(one: TextList) -> str:
    return f"{one.instruction}: {one.query}" if one.instruction else one.query


def _as_item(value: str | Mapping[str, object], what: str, number: int) -> Mapping[str, object]:
    item = {TITLE: value} if isinstance(value, str) else value
    if isinstance(item, Mapping) and TEXT in item:
        words = (field_text(item.get(name)).strip() for name in (TITLE, TEXT))
        item = {**item, TITLE: ": ".join(dict.fromkeys(filter(None, words)))}
    if not isinstance(item, Mapping) or not field_text(item.get(TITLE)).strip():
        raise DataError(f"{what} {number} has no text: give a string, or a mapping with a {TITLE!r} or {TEXT!r}")
    return item
