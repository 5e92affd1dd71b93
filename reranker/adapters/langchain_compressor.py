"""LangChain: reranks what a retriever found, as a document compressor.

Needs langchain-core. With LangChain's ContextualCompressionRetriever, or as a step after any retriever.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field

from reranker.adapters.documents import ranked
from reranker.data.schema import TITLE
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.text_ranking import TEXT


class RerankerCompressor(BaseDocumentCompressor):
    """Orders documents by how well they follow the query and what was chosen before.

    Attributes:
        reranker: fitted or not; see `Reranker.rank`.
        top_n: documents kept; None keeps all.
        title_key: metadata key that holds a document's title, which is read before its text.
        history: titles chosen before, oldest first.
        score_key: metadata key of the result that gets the score: the chance of relevance, between 0 and 1.
        max_tokens_per_doc: tokens read of a document, 512 by default; of a longer one the best window is read.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: Reranker
    top_n: int | None = Field(default=None, ge=1)
    title_key: str = "title"
    history: tuple[str, ...] = ()
    score_key: str = "relevance_score"
    max_tokens_per_doc: int | None = Field(default=None, ge=1)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The documents, best first, copied, each with its score in the metadata; those without text come last."""
        items = [self._item(one) for one in documents]
        found = ranked(self.reranker, query, items, self.history, self.max_tokens_per_doc)
        return [self._scored(documents[number], relevance) for number, relevance in found[: self.top_n]]

    def _item(self, document: Document) -> dict[str, object]:
        return {TITLE: document.metadata.get(self.title_key), TEXT: document.page_content}

    def _scored(self, document: Document, score: float) -> Document:
        metadata: dict[str, Any] = {**document.metadata, self.score_key: score}
        return document.model_copy(update={"metadata": metadata})
