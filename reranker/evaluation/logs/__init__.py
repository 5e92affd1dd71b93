"""Evaluation from logs: what was served, what was chosen afterwards, and what another order would have brought."""

from reranker.evaluation.logs.estimators import OffPolicyValue, estimate
from reranker.evaluation.logs.experiments import ArmComparison, compare_arms
from reranker.evaluation.logs.interleaving import InterleavingResult, interleaving_result, judge_interleaving
from reranker.evaluation.logs.outcomes import JoinedLog, join_outcomes, read_score_log
from reranker.evaluation.logs.report import LogReport, judge_log
from reranker.utils.team_draft import team_draft

__all__ = [
    "ArmComparison",
    "InterleavingResult",
    "JoinedLog",
    "LogReport",
    "OffPolicyValue",
    "compare_arms",
    "estimate",
    "interleaving_result",
    "join_outcomes",
    "judge_interleaving",
    "judge_log",
    "read_score_log",
    "team_draft",
]
