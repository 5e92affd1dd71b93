"""LlamaIndex: rerank retrieved nodes by what this person watched. Needs llama-index-core."""

from llama_index.core.schema import NodeWithScore, TextNode

from reranker import Reranker
from reranker.adapters.llama_index_postprocessor import RerankerPostprocessor

FILMS = ["Notting Hill", "Aliens", "The Lion King", "Blade Runner", "Pretty Woman", "Terminator 2: Judgment Day"]

postprocessor = RerankerPostprocessor(
    reranker=Reranker.from_pretrained("default"),
    history=("Alien", "The Terminator", "RoboCop"),
    top_n=3,
)
found = [NodeWithScore(node=TextNode(text=title)) for title in FILMS]  # from your retriever
for node in postprocessor.postprocess_nodes(found, query_str="a film for tonight"):
    print(f"{node.score:8.2f}  {node.text}")
