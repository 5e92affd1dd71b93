"""The endpoint: rerank APIs as Cohere, Jina and vLLM have them, personal by user, behind keys."""
