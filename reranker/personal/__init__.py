"""User contexts: a vector of at most 64 floats a user, and the soft tokens it becomes."""

from reranker.personal.context import CONTEXT_FILE, SUPPORT_ITEMS, ContextMap, history_features

__all__ = ["CONTEXT_FILE", "SUPPORT_ITEMS", "ContextMap", "history_features"]
