"""LlamaIndex: reranks retrieved nodes, as a node postprocessor. Needs llama-index-core."""

from llama_index.core.bridge.pydantic import ConfigDict, Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from reranker.adapters.documents import ranked
from reranker.data.schema import TITLE
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.text_ranking import TEXT


class RerankerPostprocessor(BaseNodePostprocessor):
    """Orders nodes by how well they follow the query and what was chosen before.

    Attributes:
        reranker: fitted or not; see `Reranker.rank`.
        top_n: nodes kept; None keeps all.
        title_key: metadata key that holds a node's title, which is read before its text.
        history: titles chosen before, oldest first.
        max_tokens_per_doc: tokens read of a node, 512 by default; of a longer one the best window is read.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reranker: Reranker = Field(exclude=True)
    top_n: int | None = Field(default=None, ge=1)
    title_key: str = "title"
    history: tuple[str, ...] = ()
    max_tokens_per_doc: int | None = Field(default=None, ge=1)

    @classmethod
    def class_name(cls) -> str:
        return "RerankerPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Nodes, best first, with chances of relevance between 0 and 1; without a query the history alone counts."""
        query = query_bundle.query_str if query_bundle is not None else ""
        items = [self._item(one) for one in nodes]
        found = ranked(self.reranker, query, items, self.history, self.max_tokens_per_doc)
        return [NodeWithScore(node=nodes[number].node, score=relevance) for number, relevance in found[: self.top_n]]

    def _item(self, node: NodeWithScore) -> dict[str, object]:
        return {TITLE: node.metadata.get(self.title_key), TEXT: node.get_content(metadata_mode=MetadataMode.NONE)}
