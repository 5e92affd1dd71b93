"""Evidence features, the conditional-logit blend and the never-worse guard."""

from reranker.fusion.blend import Blend, Choices, user_numbers
from reranker.fusion.columns import llm_columns, llm_words
from reranker.fusion.conditional_logit import ConditionalLogit, standardise_within_lists
from reranker.fusion.evidence import FEATURES, EvidenceModel
from reranker.fusion.guard import GuardDecision, HistoryGroup, Order, as_order, decide, ndcg_by_list
from reranker.fusion.head import FusionHead, assign_folds, fit_fused

__all__ = [
    "FEATURES",
    "Blend",
    "Choices",
    "ConditionalLogit",
    "EvidenceModel",
    "FusionHead",
    "GuardDecision",
    "HistoryGroup",
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
