"""LlamaIndex: reranks retrieved nodes, as a node postprocessor. Needs llama-index-core."""

from llama_index.core.bridge.pydantic import ConfigDict, Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from reranker.pipeline.reranker import Reranker


class RerankerPostprocessor(BaseNodePostprocessor):
    """Orders nodes by how well they follow the query and what was chosen before.

    Attributes:
        reranker: fitted or not; see `Reranker.rank`.
        top_n: nodes kept; None keeps all.
        title_key: metadata key that holds a node's title; the node's text where there is none.
        history: titles chosen before, oldest first.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reranker: Reranker = Field(exclude=True)
    top_n: int | None = Field(default=None, ge=1)
    title_key: str = "title"
    history: tuple[str, ...] = ()

    @classmethod
    def class_name(cls) -> str:
        return "RerankerPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """The nodes, best first, with our scores; without a query, only the history counts."""
        query = query_bundle.query_str if query_bundle is not None else ""
        ranked = self.reranker.rank(query, [self._title(one) for one in nodes], history=self.history)
        return [NodeWithScore(node=nodes[one.index].node, score=one.score) for one in ranked[: self.top_n]]

    def _title(self, node: NodeWithScore) -> str:
        return str(node.metadata.get(self.title_key) or node.get_content(metadata_mode=MetadataMode.NONE))
