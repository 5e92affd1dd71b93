"""Soft tokens: prompts of domains and users' contexts."""

from reranker.soft_tokens.support import DRIFT_NATS, AdaptReport, Support, unseen
from reranker.soft_tokens.user_context import CONTEXT_FILE, SUPPORT_ITEMS, ContextMap, history_features

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
