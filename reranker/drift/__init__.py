"""Drift: how far the lists of today are from those that a bundle was fitted for, and whether that can be chance."""

from reranker.drift.detector import DriftDetector, Shift, WindowDrift
from reranker.drift.quantities import QUANTITIES, ListValues, measure, reference_values
from reranker.drift.report import DriftReport, drift_of_lists, drift_of_log
from reranker.drift.settings import DriftSettings

__all__ = [
    "QUANTITIES",
    "DriftDetector",
    "DriftReport",
    "DriftSettings",
    "ListValues",
    "Shift",
    "WindowDrift",
    "drift_of_lists",
    "drift_of_log",
    "measure",
    "reference_values",
]
