"""Logs, metrics, traces and the ranking log."""
