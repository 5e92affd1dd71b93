"""The picture of eval.speed.run: users per second and fraction of the floor, and how both move along each axis."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure


def plot(table: pd.DataFrame, path: Path) -> None:
    """Writes one SVG.

    Args:
        table: rows of eval.speed.run: axis, system, users_per_second, fraction, and a column for each axis.
        path: of the file.
    """
    axes = [axis for axis in ("candidates", "history", "users", "soft") if (table["axis"] == axis).any()]
    figure = Figure(figsize=(9, 3 + 2.6 * len(axes)), layout="constrained")
    grid = figure.subplots(1 + len(axes), 2)
    default = table[table["axis"] == "default"].groupby("system")[["users_per_second", "fraction"]].median()
    for place, (column, label) in zip(grid[0], _MEASURES, strict=True):
        place.barh(default.index, default[column])
        place.set_xlabel(label)
    for row, axis in zip(grid[1:], axes, strict=True):
        swept = table[table["axis"] == axis]
        for place, (column, label) in zip(row, _MEASURES, strict=True):
            swept.pivot_table(column, axis, "system", aggfunc="median").plot(ax=place, marker="o", ylabel=label)
            place.set_ylim(bottom=0)
    figure.savefig(path)


_MEASURES = (("users_per_second", "users/s"), ("fraction", "fraction of the floor"))
