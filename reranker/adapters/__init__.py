"""The Reranker inside the libraries people have; each module needs the library it is named after.

    implicit_recommender        `recommend(userid, user_items, N, ...)` as implicit's models have it
    langchain_compressor        LangChain's BaseDocumentCompressor
    llama_index_postprocessor   LlamaIndex's BaseNodePostprocessor
    rectools_reranker           RecTools' Reranker, for CandidateRankingModel
    rerankers_ranker            AnswerDotAI rerankers' BaseRanker

Documents are read whole up to 512 tokens (`max_tokens_per_doc`); of longer ones the best window is.
"""
