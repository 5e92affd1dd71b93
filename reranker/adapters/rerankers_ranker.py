"""AnswerDotAI rerankers: one more ranker behind its common interface. Needs the package rerankers."""

from collections.abc import Sequence
from typing import Any

from rerankers.documents import Document
from rerankers.models.ranker import BaseRanker
from rerankers.results import RankedResults, Result
from rerankers.utils import prep_docs

from reranker.pipeline.reranker import Reranker


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
        """Results, best first, with scores and ranks from 1; documents without ids are numbered from 0."""
        documents = prep_docs(docs, doc_ids, metadata) if docs else []
        ranked = self.reranker.rank(query, [one.text for one in documents], history=self.history)
        results = [Result(document=documents[one.index], score=one.score, rank=one.rank) for one in ranked]
        return RankedResults(results=results, query=query, has_scores=True)

    def score(self, query: str, doc: str) -> float:
        """Log-odds scale; only differences between documents of one query mean anything."""
        return self.reranker.rank(query, [doc], history=self.history)[0].score
