"""Population stability of windows of lists, against a floor that chance alone does not pass.

The population stability index of shares p (now) and q (reference) over bins is the sum of (p - q) ln(p / q): the
symmetrised Kullback-Leibler divergence (Siddiqi 2006, "Credit Risk Scorecards", ch. 9). Of two samples of one
population it is about (bins - 1) (1/n + 1/m), where n and m count independent lists, not candidates: those of a list
are alike. So each list counts as one share a bin, and what chance gives is found by drawing lists with replacement.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.drift.quantities import SHARES, ListValues
from reranker.drift.settings import DriftSettings

_RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One quantity in one window.

    Attributes:
        quantity: which.
        psi: population stability index against the reference.
        chance: what two samples of the reference stay under, together with all other quantities, but for `alpha`.
        mean: of the window's lists.
        reference_mean: of the reference's.
        alarm: whether `psi` is above both the threshold and chance.
    """

    quantity: str
    psi: float
    chance: float
    mean: float
    reference_mean: float
    alarm: bool

    def __str__(self) -> str:
        return (
            f"{self.quantity}: PSI {self.psi:.3f} (chance {self.chance:.3f}), mean {self.reference_mean:.4g} -> "
            f"{self.mean:.4g}"
        )


@dataclass(frozen=True, kw_only=True)
class WindowDrift:
    """A window against the reference.

    Attributes:
        lists: of the window.
        shifts: of each quantity that reference and window have.
        not_compared: quantities that either has no value of.
    """

    lists: int
    shifts: tuple[Shift, ...]
    not_compared: tuple[str, ...]

    @property
    def alarms(self) -> tuple[Shift, ...]:
        """Shifts that are alarms."""
        return tuple(one for one in self.shifts if one.alarm)


def stability_index(window: Floats, reference: Floats) -> Floats:
    """(...,) PSI over the last axis of (..., bins) shares, none of them 0."""
    index: Floats = ((window - reference) * np.log(window / reference)).sum(axis=-1)
    return index


class DriftDetector:
    """Compares windows of lists with a reference.

    Args:
        reference: lists as they should be.
        settings: bins, threshold and alpha.
    """

    def __init__(self, reference: ListValues, settings: DriftSettings | None = None) -> None:
        self.settings = settings or DriftSettings()
        self.n_lists = reference.n_lists
        self._edges = {
            name: _edges(column, 2 if name in SHARES else self.settings.bins)
            for name, column in reference.values.items()
            if np.isfinite(column).any()
        }
        self._shares = {name: _shares_by_list(reference, name, self._edges[name]) for name in self._edges}
        self._means = {name: _mean(reference, name) for name in self._edges}
        self._floors: dict[int, Mapping[str, float]] = {}

    def compare(self, window: ListValues) -> WindowDrift:
        """The PSI of every quantity of some lists."""
        chance = self._chance(window.n_lists)
        shifts, missing = [], [name for name in window.values if name not in self._edges]
        for name, edges in self._edges.items():
            mine = _shares_by_list(window, name, edges)
            if not mine.any():
                missing.append(name)
                continue
            psi = float(stability_index(_smoothed(mine.sum(axis=0)), _smoothed(self._shares[name].sum(axis=0))))
            shifts.append(
                Shift(
                    quantity=name,
                    psi=psi,
                    chance=chance[name],
                    mean=_mean(window, name),
                    reference_mean=self._means[name],
                    alarm=psi > max(self.settings.threshold, chance[name]),
                )
            )
        return WindowDrift(lists=window.n_lists, shifts=tuple(shifts), not_compared=tuple(missing))

    def _chance(self, n_lists: int) -> Mapping[str, float]:
        """Quantity -> PSI that two samples of the reference, one of `n_lists`, pass in any quantity with chance alpha.

        Each quantity's PSI is counted in units of its own mean, so that one bound serves all.
        """
        if n_lists not in self._floors:
            rng = np.random.default_rng(n_lists)
            even = np.full(self.n_lists, 1.0 / self.n_lists)
            window, reference = (
                rng.multinomial(n, even, size=_RESAMPLES).astype(np.float64) for n in (n_lists, self.n_lists)
            )
            drawn = {
                name: stability_index(_smoothed(window @ shares), _smoothed(reference @ shares))
                for name, shares in self._shares.items()
            }
            means = {name: max(float(values.mean()), 1e-12) for name, values in drawn.items()}
            worst = np.max([values / means[name] for name, values in drawn.items()], axis=0)
            bound = float(np.quantile(worst, 1 - self.settings.alpha))
            self._floors[n_lists] = {name: bound * mean for name, mean in means.items()}
        return self._floors[n_lists]


def _edges(column: Floats, bins: int) -> Floats:
    """Inner edges of equally full bins; a value that many candidates share has a bin of its own."""
    known = column[np.isfinite(column)]
    if bins == 2:
        return np.array([0.5])
    return np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1]))


def _shares_by_list(lists: ListValues, name: str, edges: Floats) -> Floats:
    """(lists, bins) shares of each list's candidates that have a value; 0 where none has.

    Bins are open above and closed at their lower edge, so that values at an edge that many share do not mix with those
    below.
    """
    column = lists.values[name]
    known = np.isfinite(column)
    n_bins = len(edges) + 1
    bins = np.searchsorted(edges, column[known], side="right")
    cells = lists.list_index[known] * n_bins + bins
    counts = np.bincount(cells, minlength=lists.n_lists * n_bins).reshape(-1, n_bins).astype(np.float64)
    totals = counts.sum(axis=1)
    shares: Floats = counts / np.maximum(totals, 1.0)[:, None]
    return shares


def _smoothed(sums: Floats) -> Floats:
    """(..., bins) shares from sums over lists, with half a list spread over all bins, so that none is 0."""
    added = sums + 0.5 / sums.shape[-1]
    shares: Floats = added / added.sum(axis=-1, keepdims=True)
    return shares


def _mean(lists: ListValues, name: str) -> float:
    """Of the lists' means."""
    column = lists.values[name]
    known = np.isfinite(column)
    index = lists.list_index[known]
    counts = np.bincount(index, minlength=lists.n_lists)
    sums = np.bincount(index, weights=column[known], minlength=lists.n_lists)
    has = counts > 0
    return float((sums[has] / counts[has]).mean()) if has.any() else float("nan")
