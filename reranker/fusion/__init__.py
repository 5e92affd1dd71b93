"""Interaction features, the conditional-logit fusion and the never-worse guard."""

from reranker.fusion.choices import Choices, user_numbers
from reranker.fusion.columns import FEATURES, llm_columns, llm_words
from reranker.fusion.conditional_logit import ConditionalLogit, standardise_within_lists
from reranker.fusion.features import InteractionStatistics
from reranker.fusion.guard import GuardDecision, HistoryGroup, Order, as_order, decide
from reranker.fusion.head import FusionHead, assign_folds, fit_fused
from reranker.fusion.model import FusionModel
from reranker.utils.statistics import ndcg_by_list

__all__ = [
    "FEATURES",
    "Choices",
    "ConditionalLogit",
    "FusionHead",
    "FusionModel",
    "GuardDecision",
    "HistoryGroup",
    "InteractionStatistics",
    "Order",
    "as_order",
    "assign_folds",
    "decide",
    "fit_fused",
    "llm_columns",
    "llm_words",
    "ndcg_by_list",
    "standardise_within_lists",
    "user_numbers",
]
