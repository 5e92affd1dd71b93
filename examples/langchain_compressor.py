"""LangChain: rerank what a retriever found by what this person watched. Needs langchain-core."""

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda

from reranker import Reranker
from reranker.adapters.langchain_compressor import RerankerCompressor

FILMS = ["Notting Hill", "Aliens", "The Lion King", "Blade Runner", "Pretty Woman", "Terminator 2: Judgment Day"]


class Films(BaseRetriever):
    """Stands for your vector store: finds everything."""

    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(page_content=title) for title in FILMS]


compressor = RerankerCompressor(
    reranker=Reranker.from_pretrained("default"),
    history=("Alien", "The Terminator", "RoboCop"),
    top_n=3,
)
chain = Films() | RunnableLambda(lambda found: compressor.compress_documents(found, "a film for tonight"))
for document in chain.invoke("a film for tonight"):
    print(f"{document.metadata['relevance_score']:8.2f}  {document.page_content}")
