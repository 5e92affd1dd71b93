"""Tracking of fits, refreshes, evaluations and trainings in an experiment tracker of yours."""

from reranker.tracking.records import log_evaluation, log_fit, log_refresh
from reranker.tracking.tracker import Tracker, tracked

__all__ = ["Tracker", "log_evaluation", "log_fit", "log_refresh", "tracked"]
