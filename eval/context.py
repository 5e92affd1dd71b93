"""Does the moment of a choice tell what is chosen? `python -m eval.context --data DIR --domains groceries`.

The context of a list is when it is served: hour, weekday, how long the user was away, and the items since the last gap
(the session). Each becomes features of a candidate, beside the interaction features: how much more often the item is
chosen at such an hour and on such a weekday than expected (log, shrunk), co-visits with the items of the session, and
popularity, recent popularity and co-visits for users who were long away. The ranker is fitted and judged by
cross-fitting over users on rolling windows of each user's newest choices. The control has the same features of a
shuffled context: hour, weekday and gap of another user of the window.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from candidate_gen import DEFAULT_METHOD, make_generator
from eval.domains import load_domain
from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, TIMESTAMP, USER
from reranker.fusion import FEATURES, Choices
from reranker.fusion.co_visits import block
from reranker.fusion.conditional_logit import standardise_within_lists
from reranker.fusion.guard import by_user
from reranker.fusion.own_columns import OwnColumn
from reranker.fusion.own_features import shrunk_log_ratio
from reranker.fusion.own_judged import cross_fitted
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.windows import windows_from_generator
from reranker.types import IntArray
from reranker.utils.statistics import Interval, mean_interval

Floats = NDArray[np.float64]

GAP = 1800.0
"""Seconds without an interaction that end a session, as web analytics have it."""

SESSION_ITEMS = 20
PRIOR = 5.0
WINDOWS = 3
GROUPS: Mapping[str, tuple[str, ...]] = {
    "hour": ("hour_lift",),
    "weekday": ("weekday_lift",),
    "gap": ("gap_x_popularity", "gap_x_recent_popularity", "gap_x_covisit"),
    "session": ("session_covisit", "session_size_x_covisit"),
}
"""What the context is made of -> its features."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """When the lists of a window are served.

    Attributes:
        times: (n_lists,) seconds.
        gaps: (n_lists,) seconds since the user's newest interaction.
    """

    times: Floats
    gaps: Floats

    def shuffled(self, seed: int) -> "Context":
        """Each list with the moment of another one."""
        order = np.random.default_rng(seed).permutation(len(self.times))
        return Context(times=self.times[order], gaps=self.gaps[order])


def context_of(window: CandidateLists, newer: pd.DataFrame) -> Context:
    """The moments of the choices that a window holds out.

    Args:
        newer: the interactions that were known one choice later.
    """
    last = newer.groupby(USER, sort=False)[TIMESTAMP].last().reindex(window.users).to_numpy(dtype=np.float64)
    before = window.known.groupby(USER, sort=False)[TIMESTAMP].last().reindex(window.users).to_numpy(dtype=np.float64)
    return Context(times=last, gaps=np.maximum(last - before, 0.0))


def context_features(window: CandidateLists, context: Context, scale: OwnColumn) -> dict[str, Floats]:
    """Feature -> (rows,) values, z-scored within lists.

    Args:
        window: lists.
        context: when they are served, or a shuffled one.
        scale: of gaps, as `RerankerConfig.features` brings a column of candidates to one.
    """
    statistics, lists = window.statistics, window.list_index
    rows = np.asarray(window.candidates[ITEM].map(statistics.index), dtype=np.float64)
    rows = np.where(np.isnan(rows), -1, rows).astype(np.int64)
    chosen = window.known[ITEM].map(statistics.index).to_numpy(dtype=np.int64)
    known_times = window.known[TIMESTAMP].to_numpy(dtype=np.float64)
    raw = {
        "hour_lift": _lifts(_hour(known_times), chosen, _hour(context.times)[lists], rows, 8, len(statistics.index)),
        "weekday_lift": _lifts(_day(known_times), chosen, _day(context.times)[lists], rows, 7, len(statistics.index)),
        "session_covisit": _session(window, context, rows),
    }
    standard = {name: standardise_within_lists(values[:, None], lists)[:, 0] for name, values in raw.items()}
    away = scale.scaled(pd.Series(context.gaps))[lists]
    plain = dict(zip(FEATURES, window.features.T, strict=True))
    in_session = np.array([np.log1p(len(one)) for one in _sessions(window, context)])[lists]
    return standard | {
        "gap_x_popularity": away * plain["popularity"],
        "gap_x_recent_popularity": away * plain["recent_popularity"],
        "gap_x_covisit": away * plain["covisit_mean"],
        "session_size_x_covisit": in_session * standard["session_covisit"],
    }


def _hour(times: Floats) -> IntArray:
    return ((times // 3600) % 24 // 3).astype(np.int64)


def _day(times: Floats) -> IntArray:
    return ((times // 86400) % 7).astype(np.int64)


def _lifts(past: IntArray, items: IntArray, now: IntArray, rows: IntArray, n: int, n_items: int) -> Floats:
    """(rows,) log of choices of the item in the bucket over what is expected, shrunk."""
    counts = np.bincount(past * n_items + items, minlength=n * n_items).reshape(n, n_items).astype(np.float64)
    expected = counts.sum(axis=1, keepdims=True) * (counts.sum(axis=0) / counts.sum())
    known = np.maximum(rows, 0)
    return np.where(rows >= 0, shrunk_log_ratio(counts, expected, PRIOR)[now, known], 0.0)


def _sessions(window: CandidateLists, context: Context) -> list[IntArray]:
    """The rows of the items since the last gap, of each list's user; none where he was away for longer."""
    times = {user: part.to_numpy(dtype=np.float64) for user, part in window.known.groupby(USER, sort=False)[TIMESTAMP]}
    found = []
    for user, gap in zip(window.users, context.gaps.tolist(), strict=True):
        history, at = window.statistics.histories.get(user, np.zeros(0, dtype=np.int64)), times.get(user, np.zeros(0))
        breaks = np.flatnonzero(np.diff(at) > GAP)
        begin = int(breaks[-1]) + 1 if len(breaks) else 0
        found.append(history[begin:][-SESSION_ITEMS:] if gap <= GAP else history[:0])
    return found


def _session(window: CandidateLists, context: Context, rows: IntArray) -> Floats:
    """(rows,) mean co-visit cosine with the items of the session; 0 without one."""
    values = np.zeros(len(rows))
    order = np.argsort(window.list_index, kind="stable")
    bounds = np.searchsorted(window.list_index[order], np.arange(len(window.users) + 1))
    for number, session in enumerate(_sessions(window, context)):
        here = order[bounds[number] : bounds[number + 1]]
        here = here[rows[here] >= 0]
        if len(session) and len(here):
            values[here] = block(window.statistics.co_visits, session, rows[here]).mean(axis=0)
    return values


@dataclass(frozen=True, kw_only=True)
class Found:
    """What features of the context add.

    Attributes:
        domain, features: what was judged.
        base: NDCG@10 without them.
        gain: of the true context over the ranker without.
        over_control: of the true context over the shuffled one.
    """

    domain: str
    features: str
    base: float
    gain: Interval
    over_control: Interval

    def __str__(self) -> str:
        return f"{self.domain:<20} {self.features:<10} {self.base:.4f} | {self.gain} | {self.over_control}"


def judge(data: Dataset, domain: str, seed: int = 0) -> list[Found]:
    """All groups of features together, and each alone."""
    generator = make_generator(DEFAULT_METHOD, seed=seed)
    windows = windows_from_generator(data, generator, 50, 1, seed, WINDOWS)
    known = [data.interactions, *(window.known for window in windows[:-1])]
    contexts = [context_of(window, newer) for window, newer in zip(windows, known, strict=True)]
    scale = OwnColumn.of("candidates", pd.Series(contexts[0].gaps, name="gap"), of_list=True)
    both = list(zip(windows, contexts, strict=True))
    true = [context_features(window, one, scale) for window, one in both]
    mixed = [context_features(window, one.shuffled(seed), scale) for window, one in both]
    base = Choices.joined([window.choices for window in windows])
    plain = cross_fitted(base, seed=seed)
    found = []
    for name, names in {"all": tuple(sum(GROUPS.values(), ())), **GROUPS}.items():
        values = [cross_fitted(_with(base, part, names), seed=seed) for part in (true, mixed)]
        gains = [by_user(values[0] - other, base.user_numbers) for other in (plain, values[1])]
        intervals = [mean_interval(one, seed=seed) for one in gains]
        found.append(
            Found(domain=domain, features=name, base=float(plain.mean()), gain=intervals[0], over_control=intervals[1])
        )
    return found


def _with(base: Choices, parts: list[dict[str, Floats]], names: tuple[str, ...]) -> Choices:
    further = np.concatenate([np.stack([part[name] for name in names], axis=1) for part in parts])
    columns = {**base.columns, **{name: name for name in names}}
    return replace(base, features=np.concatenate([base.features, further], axis=1), columns=columns)


def main(
    data: Annotated[Path, typer.Option(help="folder with one folder a domain")],
    domains: Annotated[str, typer.Option(help="comma-separated; with real times")],
) -> None:
    """Prints one line a domain and group of features."""
    typer.echo(f"{'domain':<20} {'features':<10} NDCG@10 without | gain | over the shuffled context")
    for name in domains.split(","):
        for one in judge(load_domain(data, name), name):
            typer.echo(str(one))


if __name__ == "__main__":
    typer.run(main)
