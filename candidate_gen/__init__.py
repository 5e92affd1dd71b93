"""Recall stages: who proposes the candidates that the reranker orders."""
