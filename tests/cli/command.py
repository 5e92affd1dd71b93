"""Runs `reranker ...`, as a shell would see it, without paying for a process and its imports each time."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from unittest.mock import patch

from reranker.cli import main


def run(*arguments, code=0):
    """The command in this process: (stdout, stderr); an exception that `main` lets through fails the test."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["reranker", *map(str, arguments)]
    with (
        _logging_of_its_own(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", argv),
    ):
        try:
            main()
            ended = 0
        except SystemExit as end:
            ended = end.code or 0
    assert ended == code, err.getvalue()
    return out.getvalue(), err.getvalue()


def refused(*arguments):
    """Runs a command that must fail; returns its one line of error."""
    _, stderr = run(*arguments, code=1)
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert stderr.count("error: ") == 1
    return last


@contextlib.contextmanager
def _logging_of_its_own() -> Iterator[None]:
    """As in a fresh process: the command sets logging up, and afterwards nothing of that is left."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, ("reranker", "candidate_gen"))]
    before = [(one, one.level, one.handlers[:]) for one in loggers]
    root.handlers[:] = []
    try:
        yield
    finally:
        for one, level, handlers in before:
            one.setLevel(level)
            one.handlers[:] = handlers
