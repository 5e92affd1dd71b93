"""Command line: one file a command."""


def main() -> None:
    """Entry point of `reranker`."""
