"""Log lines that nobody waits for."""

import contextlib
import io
import json
import logging
import logging.config
import os
import time

from reranker.serve.observability.logging import JsonLines, LaterLines


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


def test_lines_go_on_after_logging_was_configured_anew():
    """As vLLM does when it is imported."""
    stream = io.StringIO()
    logger, handler = log_to(stream)
    logger.info("before")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    assert not handler._thread.is_alive()
    logger.info("after")
    handler.close()
    assert stream.getvalue() == "before\nafter\n"


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


def test_records_are_json_and_tracebacks_hold_no_messages():
    stream = io.StringIO()
    logger, handler = log_to(stream)
    handler.setFormatter(JsonLines())
    try:
        raise ValueError("quotes the user")
    except ValueError:
        logger.exception("%d users\nwere not adapted", 3)
    logger.info("fine")
    handler.close()
    failed, fine = map(json.loads, stream.getvalue().splitlines())
    assert failed["message"] == "3 users\nwere not adapted" and failed["level"] == "error"
    assert failed["error"] == "ValueError" and failed["at"][0].split()[-1].startswith("test_records_are_json")
    assert "quotes" not in stream.getvalue()
    assert {"time", "level", "logger", "message"} == fine.keys()


def test_a_line_that_cannot_be_written_fails_nobody(capsys):
    stream = io.StringIO()
    logger, handler = log_to(stream)
    logger.info("%d", "no number")
    logger.info("goes on")
    handler.close()
    assert stream.getvalue() == "goes on\n" and "Logging error" in capsys.readouterr().err
