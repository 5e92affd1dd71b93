"""LangChain: reranks what a retriever found, as a document compressor.

Needs langchain-core. With LangChain's ContextualCompressionRetriever, or as a step after any retriever.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field

from reranker.pipeline.reranker import Reranker


class RerankerCompressor(BaseDocumentCompressor):
    """Orders documents by how well they follow the query and what was chosen before.

    Attributes:
        reranker: fitted or not; see `Reranker.rank`.
        top_n: documents kept; None keeps all.
        title_key: metadata key that holds a document's title; the document's text where there is none.
        history: titles chosen before, oldest first.
        score_key: metadata key of the result that gets the score.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: Reranker
    top_n: int | None = Field(default=None, ge=1)
    title_key: str = "title"
    history: tuple[str, ...] = ()
    score_key: str = "relevance_score"

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The documents, best first, copied, each with its score in the metadata.

        Raises:
            DataError: a document without text.
        """
        ranked = self.reranker.rank(query, [self._title(one) for one in documents], history=self.history)
        return [self._scored(documents[one.index], one.score) for one in ranked[: self.top_n]]

    def _title(self, document: Document) -> str:
        return str(document.metadata.get(self.title_key) or document.page_content)

    def _scored(self, document: Document, score: float) -> Document:
        metadata: dict[str, Any] = {**document.metadata, self.score_key: score}
        return document.model_copy(update={"metadata": metadata})
