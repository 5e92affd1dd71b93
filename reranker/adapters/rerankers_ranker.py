"""AnswerDotAI rerankers: one more ranker behind its common interface. Needs the package rerankers."""

from collections.abc import Sequence
from copy import copy
from typing import Any

from rerankers.documents import Document
from rerankers.models.ranker import BaseRanker
from rerankers.results import RankedResults, Result
from rerankers.utils import prep_docs

from reranker.adapters.documents import ranked
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.text_ranking import TEXT


class RerankerRanker(BaseRanker):
    """Ranks documents by how well they follow the query and what was chosen before.

    Args:
        reranker: fitted or not; see `Reranker.rank`.
        history: titles chosen before, oldest first.
    """

    def __init__(self, reranker: Reranker, history: Sequence[str] = ()) -> None:
        self.reranker = reranker
        self.history = tuple(history)

    def rank(
        self,
        query: str,
        docs: str | list[str] | Document | list[Document],
        doc_ids: list[str] | list[int] | None = None,
        metadata: list[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """Results, best first, with chances of relevance between 0 and 1 and ranks from 1; documents without ids are
        numbered from 0."""
        prepared = prep_docs(docs, doc_ids, metadata) if docs else []
        documents = [_numbered(one, number) for number, one in enumerate(prepared)]
        found = ranked(self.reranker, query, [{TEXT: one.text} for one in documents], self.history)
        results = [
            Result(document=documents[number], score=relevance, rank=place)
            for place, (number, relevance) in enumerate(found, start=1)
        ]
        return RankedResults(results=results, query=query, has_scores=True)

    def score(self, query: str, doc: str) -> float:
        """The chance that the document answers the query, between 0 and 1."""
        return self.reranker.rank(query, [doc], history=self.history)[0].relevance


def _numbered(document: Document, number: int) -> Document:
    """A copy with its number where it has no id; the library itself forgets to set it."""
    if document.doc_id is not None:
        return document
    numbered = copy(document)
    numbered.doc_id = number
    return numbered
