"""Collaborative tokens: one soft token an item, projected from a vector of it that does not come from its text."""

from reranker.item_tokens.record import (
    ITEM_TOKENS_FILE,
    ITEM_TOKENS_FOLDER,
    WEIGHTS,
    ItemTokens,
    load_item_tokens,
    save_item_tokens,
)
from reranker.item_tokens.table import RECALL, VectorTable

__all__ = [
    "ITEM_TOKENS_FILE",
    "ITEM_TOKENS_FOLDER",
    "RECALL",
    "WEIGHTS",
    "ItemTokens",
    "VectorTable",
    "load_item_tokens",
    "save_item_tokens",
]
