"""Log lines that nobody waits for."""

import contextlib
import io
import logging
import os
import time

from reranker.serve.lines import LaterLines


def log_to(stream, **options):
    handler = LaterLines(stream, **options)
    logger = logging.Logger("lines")
    logger.addHandler(handler)
    return logger, handler


def test_all_lines_come_in_their_order():
    stream = io.StringIO()
    logger, handler = log_to(stream)
    for number in range(1000):
        logger.info("line %d", number)
    handler.close()
    assert stream.getvalue().splitlines() == [f"line {number}" for number in range(1000)]


def test_flushing_waits_for_what_was_given():
    stream = io.StringIO()
    logger, handler = log_to(stream)
    logger.info("a line")
    handler.flush()
    assert stream.getvalue() == "a line\n"
    handler.close()


def test_a_pipe_that_nobody_reads_stops_nobody():
    end, beginning = os.pipe()
    stream = os.fdopen(beginning, "w")
    logger, handler = log_to(stream)
    started = time.monotonic()
    for _ in range(2000):
        logger.info("x" * 1000)
    assert time.monotonic() - started < 5
    os.close(end)  # the writer is told that nobody will
    handler.close()
    assert not handler._thread.is_alive()
    with contextlib.suppress(BrokenPipeError):
        stream.close()
