"""LangChain, LlamaIndex and rerankers: the same order as `Reranker.rank`, through each library's own machinery."""

import asyncio

import pytest

from reranker import Reranker
from tests.pipeline import toys

HISTORY = ("zorblax zomzik 1", "zorblax zomzik 2")
TITLES = ["mipfen mippel 7", "zorblax zomzik 7", "quxard quxley 7", "vantow vanvik 7"]
QUERY = "anything"


@pytest.fixture
def reranker() -> Reranker:
    return Reranker(toys.config())


@pytest.fixture
def expected(reranker):
    ranked = reranker.rank(QUERY, TITLES, history=HISTORY)
    assert ranked[0].index == 1  # the history's taste
    return [(TITLES[one.index], one.relevance) for one in ranked]


class TestLangChain:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("langchain_core")

    @pytest.fixture
    def documents(self):
        from langchain_core.documents import Document

        return [
            Document(page_content=title, id=str(number), metadata={"n": number}) for number, title in enumerate(TITLES)
        ]

    def compressor(self, reranker, **settings):
        from reranker.adapters.langchain_compressor import RerankerCompressor

        return RerankerCompressor(reranker=reranker, history=HISTORY, **settings)

    def test_in_a_chain_behind_a_retriever(self, reranker, documents, expected):
        from langchain_core.retrievers import BaseRetriever
        from langchain_core.runnables import RunnableLambda

        class Everything(BaseRetriever):
            def _get_relevant_documents(self, query, *, run_manager):
                return documents

        compressor = self.compressor(reranker)
        chain = Everything() | RunnableLambda(lambda found: compressor.compress_documents(found, QUERY))
        found = chain.invoke(QUERY)
        assert [(one.page_content, one.metadata["relevance_score"]) for one in found] == expected
        assert found[0].metadata["n"] == 1 and found[0].id == "1"
        assert "relevance_score" not in documents[1].metadata  # the caller's documents are left alone

    def test_top_n_title_key_and_async(self, reranker, documents, expected):
        renamed = [
            one.model_copy(update={"page_content": "x", "metadata": {"name": one.page_content}}) for one in documents
        ]
        compressor = self.compressor(reranker, top_n=2, title_key="name", score_key="s")
        found = asyncio.run(compressor.acompress_documents(renamed, QUERY))
        assert [one.metadata["name"] for one in found] == [title for title, _ in expected[:2]]
        assert all(0 < one.metadata["s"] < 1 for one in found)

    def test_chunks_that_share_a_title_are_told_apart_by_their_text(self, reranker, documents):
        chunks = [one.model_copy(update={"metadata": {"title": "One book"}}) for one in documents]
        found = self.compressor(reranker).compress_documents(chunks, "quxard quxley")
        assert found[0].page_content == TITLES[2]
        best, *others = (one.metadata["relevance_score"] for one in found)
        assert best > max(others)

    def test_bad_settings_and_documents(self, reranker, documents):
        with pytest.raises(ValueError, match="top_n"):
            self.compressor(reranker, top_n=0)
        with pytest.raises(ValueError, match="top_k"):
            self.compressor(reranker, top_k=3)
        empty = documents[0].model_copy(update={"page_content": "<br>\u200b"})
        found = self.compressor(reranker).compress_documents([empty, documents[0]], QUERY)
        assert [one.page_content for one in found] == [TITLES[0], empty.page_content]
        assert found[1].metadata["relevance_score"] == 0
        assert self.compressor(reranker).compress_documents([], QUERY) == []


class TestLlamaIndex:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("llama_index.core")

    @pytest.fixture
    def nodes(self):
        from llama_index.core.schema import NodeWithScore, TextNode

        return [NodeWithScore(node=TextNode(text=title), score=0.5) for title in TITLES]

    def postprocessor(self, reranker, **settings):
        from reranker.adapters.llama_index_postprocessor import RerankerPostprocessor

        return RerankerPostprocessor(reranker=reranker, history=HISTORY, **settings)

    def test_in_a_query_engine(self, reranker, nodes, expected):
        from llama_index.core import Settings
        from llama_index.core.llms import MockLLM
        from llama_index.core.query_engine import RetrieverQueryEngine
        from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
        from llama_index.core.retrievers import BaseRetriever

        class Everything(BaseRetriever):
            def _retrieve(self, query_bundle):
                return nodes

        Settings.llm = MockLLM()  # no text is written, but one must be there
        synthesizer = get_response_synthesizer(response_mode=ResponseMode.NO_TEXT)
        engine = RetrieverQueryEngine(Everything(), synthesizer, node_postprocessors=[self.postprocessor(reranker)])
        assert [(one.text, one.score) for one in engine.query(QUERY).source_nodes] == expected

    def test_top_n_title_key_and_async(self, reranker, nodes, expected):
        for one in nodes:
            one.node.metadata["name"] = one.node.text
            one.node.text = "x"
        chosen = self.postprocessor(reranker, top_n=2, title_key="name")
        found = asyncio.run(chosen.apostprocess_nodes(nodes, query_str=QUERY))
        assert [one.metadata["name"] for one in found] == [title for title, _ in expected[:2]]

    def test_without_a_query_the_history_counts(self, reranker, nodes):
        assert self.postprocessor(reranker).postprocess_nodes(nodes)[0].text == TITLES[1]
        assert self.postprocessor(reranker).postprocess_nodes([]) == []


class TestRerankers:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("rerankers")

    @pytest.fixture
    def ranker(self, reranker):
        from reranker.adapters.rerankers_ranker import RerankerRanker

        return RerankerRanker(reranker, history=HISTORY)

    def test_results(self, ranker, expected):
        results = ranker.rank(QUERY, TITLES, doc_ids=["a", "b", "c", "d"])
        assert [(one.text, one.score) for one in results] == expected
        assert [one.rank for one in results] == [1, 2, 3, 4]
        assert results.top_k(1)[0].doc_id == "b"
        assert results.get_score_by_docid("b") == expected[0][1]
        assert asyncio.run(ranker.rank_async(QUERY, TITLES)).top_k(1)[0].doc_id == 1

    def test_their_documents_keep_ids_and_metadata(self, ranker):
        from rerankers import Document

        documents = [
            Document(title, doc_id=f"d{number}", metadata={"n": number}) for number, title in enumerate(TITLES)
        ]
        best = ranker.rank(QUERY, documents)[0]
        assert best.doc_id == "d1" and best.metadata == {"n": 1}

    def test_their_documents_without_ids_are_numbered(self, ranker, expected):
        from rerankers import Document

        documents = [Document(title) for title in TITLES]
        results = ranker.rank(QUERY, documents)
        assert [one.doc_id for one in results] == [TITLES.index(text) for text, _ in expected]
        assert documents[1].doc_id is None  # the caller's are left alone

    def test_score_and_nothing(self, ranker, reranker):
        assert ranker.score(QUERY, TITLES[1]) == reranker.rank(QUERY, TITLES[1:2], history=HISTORY)[0].relevance
        assert ranker.rank(QUERY, []).results_count() == 0
