"""The judge: splits, leak checks, metrics, controls, statistics, diagnostics and reports for any system."""

from reranker.evaluation.protocol import CandidateLists, propose
from reranker.evaluation.report import write_report
from reranker.evaluation.results import read_results, write_results
from reranker.evaluation.runner import Results, Settings, evaluate
from reranker.evaluation.splits import (
    Fold,
    cold_items,
    cold_users,
    global_temporal,
    leave_last_k,
    leave_random_k,
    unseen_domain,
)
from reranker.evaluation.systems import System

__all__ = [
    "CandidateLists",
    "Fold",
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
