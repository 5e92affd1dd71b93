"""The judge: splits, leak checks, metrics, controls, statistics, diagnostics and reports for any system."""

from reranker.data.splits import (
    Fold,
    cold_items,
    cold_users,
    global_temporal,
    leave_last_k,
    leave_random_k,
    unseen_domain,
)
from reranker.evaluation.base import System
from reranker.evaluation.reporting.files import read_results, write_results
from reranker.evaluation.reporting.html import write_report
from reranker.evaluation.runner import Results, Settings, evaluate
from reranker.pipeline.lists import FoldLists, propose

__all__ = [
    "Fold",
    "FoldLists",
    "Results",
    "Settings",
    "System",
    "cold_items",
    "cold_users",
    "evaluate",
    "global_temporal",
    "leave_last_k",
    "leave_random_k",
    "propose",
    "read_results",
    "unseen_domain",
    "write_report",
    "write_results",
]
