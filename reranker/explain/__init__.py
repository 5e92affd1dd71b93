"""Why a candidate stands where it does: contributions that add up, choices that moved it, and both in words."""

from reranker.explain.contributions import GROUPS, Contributions, contributions, group_of
from reranker.explain.deletion import DELETED, DeletionTest, deletion_test
from reranker.explain.history import HISTORY_ITEMS, history_effects, without_each
from reranker.explain.records import Explanation, HistoryEffect, ItemExplanation
from reranker.explain.sentences import LANGUAGES, Language, sentence
from reranker.explain.tokens import TokenAttribution, TokenEffect, attribute_tokens

__all__ = [
    "DELETED",
    "GROUPS",
    "HISTORY_ITEMS",
    "LANGUAGES",
    "Contributions",
    "DeletionTest",
    "Explanation",
    "HistoryEffect",
    "ItemExplanation",
    "Language",
    "TokenAttribution",
    "TokenEffect",
    "attribute_tokens",
    "contributions",
    "deletion_test",
    "group_of",
    "history_effects",
    "sentence",
    "without_each",
]
