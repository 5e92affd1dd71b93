"""User contexts: a vector of at most 64 floats a user, and the soft tokens it becomes."""

from reranker.personal.context import CONTEXT_FILE, SUPPORT_ITEMS, ContextMap, history_features
from reranker.personal.support import DRIFT_NATS, AdaptReport, Support, unseen

__all__ = [
    "CONTEXT_FILE",
    "DRIFT_NATS",
    "SUPPORT_ITEMS",
    "AdaptReport",
    "ContextMap",
    "Support",
    "history_features",
    "unseen",
]
