"""Command line: one file a command."""

from reranker.cli.app import main

__all__ = ["main"]
