"""Business rules and diversity over ranked lists, applied after scoring and counted."""

from reranker.rules.applying import RuledLists, RulesReport, apply_rules
from reranker.rules.item_columns import ItemColumns
from reranker.rules.settings import Boost, Cap, Diversity, Exclude, Pin, Quota, Range, Rules, read_rules

__all__ = [
    "Boost",
    "Cap",
    "Diversity",
    "Exclude",
    "ItemColumns",
    "Pin",
    "Quota",
    "Range",
    "RuledLists",
    "Rules",
    "RulesReport",
    "apply_rules",
    "read_rules",
]
