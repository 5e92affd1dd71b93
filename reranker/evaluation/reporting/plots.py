"""The plots of the report, as SVG text that takes its ink colour from the page, so that dark mode works."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from reranker.errors import ConfigError
from reranker.evaluation.diagnostics import Calibration
from reranker.evaluation.significance import Comparison

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
ACCENT, MUTED = "#2f7ed8", "#8a8f98"
WIDTH = 4.4
"""Inches; readable at phone width."""


def gain_by_system(comparisons: Sequence[Comparison]) -> Markup:
    """Difference to the baseline with its interval, one line a system and domain."""
    shown = sorted(comparisons, key=lambda comparison: comparison.mean)
    figure, axes = _figure(height=0.9 + 0.32 * len(shown))
    for place, comparison in enumerate(shown):
        colour = ACCENT if comparison.decided else MUTED
        axes.plot([comparison.low, comparison.high], [place, place], color=colour, linewidth=2)
        axes.plot([comparison.mean], [place], "o", color=colour)
    axes.axvline(0, color=INK, linewidth=0.8)
    several = len({(comparison.domain, comparison.split) for comparison in shown}) > 1
    names = [f"{c.system} · {c.domain}" if several else c.system for c in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set_xlabel(f"{shown[0].metric} minus {shown[0].versus}\n(95 % interval)")
    return _svg(figure, "gain")


def gain_by_bucket(table: pd.DataFrame, xlabel: str, metric: str) -> Markup:
    """Mean difference with its interval in each bucket; the number of users under the name."""
    figure, axes = _figure(height=2.8)
    places = np.arange(len(table))
    axes.vlines(places, table["low"], table["high"], color=ACCENT, linewidth=2)
    axes.plot(places, table["mean"], "o", color=ACCENT)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(places, [f"{name}\n{n}" for name, n in zip(table["bucket"], table["n_users"], strict=True)])
    axes.set_xlabel(f"{xlabel} (users below)")
    axes.set_ylabel(f"gain in {metric}")
    return _svg(figure, xlabel)


def rank_movement_plot(movement: NDArray[np.int64]) -> Markup:
    """How many places the targets moved up (right) or down (left)."""
    figure, axes = _figure(height=2.6)
    axes.hist(movement, bins=min(41, max(5, int(np.ptp(movement)) + 1)), color=ACCENT)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("places the target moved up against the first stage")
    axes.set_ylabel("targets")
    return _svg(figure, "movement")


def calibration_plot(curve: Calibration) -> Markup:
    """Predicted against observed; on the diagonal the numbers mean what they say."""
    figure, axes = _figure(height=3.2)
    top = float(max(curve.predicted.max(), curve.observed.max()))
    axes.plot([0, top], [0, top], color=MUTED, linewidth=1, linestyle="--")
    axes.plot(curve.predicted, curve.observed, "o-", color=ACCENT)
    axes.set_xlabel("predicted chance of being the target")
    axes.set_ylabel("share that was")
    return _svg(figure, "calibration")


def _figure(height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the report needs matplotlib: pip install 'reranker[eval]'") from error
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _svg(figure: Any, name: str) -> Markup:
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # "$" of a name is no formula
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # a salt each: ids in one page must differ
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :].replace(INK, "currentColor"))  # matplotlib escapes what it writes
