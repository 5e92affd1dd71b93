"""Soft tokens: prompts of domains, users' contexts and projected item vectors."""

from reranker.soft_tokens.item_projector import (
    ITEM_TOKENS_FILE,
    ITEM_TOKENS_FOLDER,
    WEIGHTS,
    ItemTokens,
    load_item_tokens,
    save_item_tokens,
)
from reranker.soft_tokens.item_vectors import COLLABORATIVE, VectorTable
from reranker.soft_tokens.support import DRIFT_NATS, AdaptReport, Support, unseen
from reranker.soft_tokens.user_context import CONTEXT_FILE, SUPPORT_ITEMS, ContextMap, history_features

__all__ = [
    "COLLABORATIVE",
    "CONTEXT_FILE",
    "DRIFT_NATS",
    "ITEM_TOKENS_FILE",
    "ITEM_TOKENS_FOLDER",
    "SUPPORT_ITEMS",
    "WEIGHTS",
    "AdaptReport",
    "ContextMap",
    "ItemTokens",
    "Support",
    "VectorTable",
    "history_features",
    "load_item_tokens",
    "save_item_tokens",
    "unseen",
]
