"""Progress bars with the time that is left, for whoever looks: terminals and notebooks."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

_TICK_SECONDS = 1.0


def progress_bar(total: int, unit: str, what: str, shown: bool | None = None, done: int = 0) -> Any:
    """A tqdm bar: a context manager with `update(n)`.

    Args:
        total: how many there are.
        unit: of one, as "text".
        what: stands before the bar.
        shown: None shows it where somebody looks: on a terminal or in a notebook.
        done: how many of them were there already; the rate and the time that is left do not count them.
    """
    from tqdm.auto import tqdm

    hidden = not (is_watched() if shown is None else shown)
    return tqdm(total=total, initial=done, unit=unit, unit_scale=total > 99_999, desc=what, disable=hidden)


@contextmanager
def step(what: str, shown: bool | None = None) -> Iterator[None]:
    """A line on stderr for a step of unknown length, whose seconds go on; the log has a line when it begins and one
    with the seconds that it took.

    Args:
        what: the step.
        shown: as in `progress_bar`.
    """
    from tqdm.auto import tqdm

    began, hidden = time.perf_counter(), not (is_watched() if shown is None else shown)
    logger.info("%s ...", what)
    with tqdm(total=1, desc=what, bar_format="{desc}: {elapsed}", disable=hidden) as bar:
        with _ticking(bar, hidden):
            yield
        bar.update()
    logger.info("%s: %.1f s", what, time.perf_counter() - began)


@contextmanager
def _ticking(bar: Any, hidden: bool) -> Iterator[None]:
    """Draws the bar anew every second, for what it shows changes by itself."""
    done = threading.Event()

    def tick() -> None:
        while not done.wait(_TICK_SECONDS):
            bar.refresh()

    ticker = threading.Thread(target=tick, name="progress", daemon=True)
    if not hidden:
        ticker.start()
    try:
        yield
    finally:
        done.set()
        if not hidden:
            ticker.join()


def is_watched() -> bool:
    """Whether somebody looks: stderr is a terminal, or this runs in a notebook."""
    kernel = "ipykernel" in sys.modules and "IPython" in sys.modules
    return kernel or bool(getattr(sys.stderr, "isatty", bool)())
