"""Prompt templates: data only, read through importlib.resources."""
