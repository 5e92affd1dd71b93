"""One HTML file that needs nothing else: tables and plots, readable on a phone, light and dark.

The values are made here; the page and its words are in report.html.j2, which escapes every value but the plots.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from reranker.evaluation.diagnose import Diagnosis, attacks_table, diagnosis_table
from reranker.evaluation.diagnostics import (
    by_bucket,
    calibration,
    history_length_buckets,
    item_popularity_buckets,
    rank_movement,
    tied_share,
)
from reranker.evaluation.exposure import Exposure
from reranker.evaluation.metrics import per_user_metrics, ranks
from reranker.evaluation.registry import SYSTEMS
from reranker.evaluation.reporting import plots
from reranker.evaluation.reporting.examples import example_lists
from reranker.evaluation.reporting.fairness import fairness_table, groups_table, share_tables
from reranker.evaluation.reporting.tables import Table
from reranker.evaluation.reporting.verdict import FEW_USERS, Provenance, verdict
from reranker.evaluation.runner import Results, Run, Settings
from reranker.evaluation.significance import POOLED, Comparison
from reranker.evaluation.user_groups import GroupQuality, single_users
from reranker.utils.atomic_io import write_text

PRODUCT = ("fused", "served", "llm")
"""Systems of ours that a report looks at closely, the first that was run."""

_TEMPLATES = Environment(
    loader=PackageLoader("reranker.evaluation.reporting", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(
    results: Results,
    path: Path,
    title: str = "Reranking, judged",
    focus: str | None = None,
    diagnoses: Sequence[Diagnosis] = (),
    provenance: Provenance | None = None,
    exposures: Sequence[Exposure] = (),
    groups: Sequence[GroupQuality] = (),
) -> None:
    """Writes the report.

    Args:
        focus: the system whose gain is looked at by bucket, movement and calibration; by default the product's, else
            the one with the largest mean gain over the baseline.
        diagnoses: shown in a table of their own.
        provenance: command, date and versions, for the foot of the page.
        exposures: who is shown, by groups of items.
        groups: quality by groups of users.
    """
    settings = results.settings
    n = settings.candidates[0]
    runs = [run for run in results.runs if run.lists.n == n]
    main = [one for one in results.comparisons if one.metric == settings.compared[0]]
    page = _TEMPLATES.get_template("report.html.j2").render(
        title=title,
        verdict=verdict(results),
        lists=list({id(run.lists): run.lists for run in runs}.values()),
        settings=settings,
        systems=_values(results, n),
        comparisons=list(_compared(main, runs, settings.baseline)),
        look=_closer_look(main, runs, settings, focus),
        exposures=exposures,
        fairness=fairness_table(exposures),
        shares=list(share_tables(exposures)),
        groups=groups,
        qualities=groups_table(groups),
        single=single_users(groups),
        costs=_costs(runs),
        diagnoses=diagnosis_table(diagnoses),
        attacks=attacks_table(diagnoses),
        known={run.system: SYSTEMS[run.system] for run in results.runs if run.system in SYSTEMS},
        provenance=provenance,
    )
    write_text(path, page)


def _values(results: Results, n: int) -> Table:
    """The main metrics: a row a system, and a place where there are several."""
    rows = results.rows
    label = results.runs[0].lists.label(results.settings.protocols[0])
    rows = rows[(rows["protocol"] == label) & (rows["candidates"] == n)]
    names = rows["metric"] + rows["k"].map(lambda k: "" if pd.isna(k) else f"@{k}")
    place = rows["domain"] + (", " + rows["split"] if rows["split"].nunique() > 1 else "")
    named = place + " · " + rows["system"] if place.nunique() > 1 else rows["system"]
    table = rows.assign(name=names, place=named).pivot_table(
        index="place", columns="name", values="value", aggfunc="mean", sort=False
    )
    wanted = [name for name in ("ndcg@10", "hr@10", "mrr", "recall@20", "coverage@10") if name in table]
    table = table[wanted or list(table.columns[:5])]
    return Table(["", *map(str, table.columns)], table.map("{:.4f}".format).reset_index().to_numpy().tolist())


def _compared(comparisons: Sequence[Comparison], runs: Sequence[Run], baseline: str) -> Iterator[dict[str, Any]]:
    """Heading, plot, table and notes of each split and rival; a plot only against the baseline."""
    for split, versus in dict.fromkeys((one.split, one.versus) for one in comparisons):
        some = [one for one in comparisons if (one.split, one.versus) == (split, versus)]
        yield {
            "heading": f"{some[0].metric} against {versus}" + (f", {split}" if _several_splits(runs) else ""),
            "plot": plots.gain_by_system(_overview(some)) if versus == baseline else "",
            "table": _gains(some),
            "notes": [one.power_note for one in some if one.power_note],
        }


def _gains(comparisons: Sequence[Comparison]) -> Table:
    domains = [one.domain for one in comparisons]
    rows = [
        [
            _row_name(one.domain, one.system, domains),
            f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]",
            "" if np.isnan(one.relative) else f"{one.relative:+.1%}",
            f"{one.p_holm:.3f}",
            f"{one.n_users}{' (few)' if one.n_users < FEW_USERS else ''}",
        ]
        for one in comparisons
    ]
    return Table(["", "difference, 95 % interval", "relative", "p (Holm)", "users"], rows)


def _costs(runs: Sequence[Run]) -> Table:
    """Latency, tokens and ties; of the first seed."""
    several = _several_splits(runs)
    places = [f"{run.lists.fold.domain}, {run.lists.fold.split}" if several else run.lists.fold.domain for run in runs]
    rows: dict[str, list[str]] = {}
    for place, run in zip(places, runs, strict=True):
        name, tokens = _row_name(place, run.system, places), run.cost["tokens_per_user"]
        cells = [
            f"{run.cost['ms_per_user']:.2f}",
            "" if np.isnan(tokens) else f"{tokens:.0f}",
            f"{tied_share(run.lists, run.scores):.1%}",
            f"{run.fit_seconds:.1f}",
        ]
        rows.setdefault(name, [name, *cells])
    return Table(["", "ms a user", "tokens a user", "tied scores", "seconds of fitting"], list(rows.values()))


def _closer_look(
    comparisons: Sequence[Comparison], runs: Sequence[Run], settings: Settings, focus: str | None
) -> dict[str, Any] | None:
    """One system on the first split: lists before and after, gain by bucket, movement of ranks and calibration; None
    where it was not compared with the baseline."""
    split = runs[0].lists.fold.split
    runs = [run for run in runs if run.lists.fold.split == split]
    against = [one for one in comparisons if (one.versus, one.split) == (settings.baseline, split)]
    if not against:
        return None
    best = max(_overview(against), key=lambda one: one.mean).system
    focus = focus or next((name for name in PRODUCT if any(run.system == name for run in runs)), best)
    mine = {id(run.lists): run for run in reversed(runs) if run.system == focus}  # of the first seed
    bases = [run for run in runs if run.system == settings.baseline and id(run.lists) in mine]
    if not bases:
        return None
    pairs = [(base, mine[id(base.lists)]) for base in bases]
    moved = np.concatenate([rank_movement(run.lists, ranks(run.lists, run.scores)) for _, run in pairs])
    last = pairs[-1][1]
    curve = calibration(last.lists, last.scores) if last.lists.covered.any() else None
    return {
        "system": focus,
        "examples": example_lists(pairs[0][1]),
        "gains": list(_gain_by_bucket(pairs, settings)),
        "movement": plots.rank_movement_plot(moved) if len(moved) else "",
        "domain": last.lists.fold.domain,
        "calibration": plots.calibration_plot(curve) if curve else "",
        "error": curve.error if curve else None,
    }


def _gain_by_bucket(pairs: Sequence[tuple[Run, Run]], settings: Settings) -> Iterator[dict[str, Any]]:
    """Plot of the gain of the second of each pair over the first, and the buckets that are too small to be read."""
    metric = settings.compared[0]

    def values(run: Run) -> pd.Series:
        return per_user_metrics(run.lists, run.scores, "end_to_end", settings.ks)[metric]

    gain = pd.concat([values(run) - values(base) for base, run in pairs], ignore_index=True)
    for by, axis, buckets_of in (
        ("history length", "history", history_length_buckets),
        ("popularity of the target", "popularity", item_popularity_buckets),
    ):
        table = by_bucket(gain, [bucket for base, _ in pairs for bucket in buckets_of(base.lists)])
        small = table[table["n_users"] < FEW_USERS]
        few = [f"{name} ({n} users)" for name, n in zip(small["bucket"], small["n_users"], strict=True)]
        yield {"by": by, "plot": plots.gain_by_bucket(table, axis, metric), "few": few}


def _overview(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The pooled comparisons where there are any."""
    pooled = [comparison for comparison in comparisons if comparison.domain == POOLED]
    return pooled or list(comparisons)


def _several_splits(runs: Sequence[Run]) -> bool:
    return len({run.lists.fold.split for run in runs}) > 1


def _row_name(place: str, system: str, places: Sequence[str]) -> str:
    """The system, and where there are several places, which one the row is about."""
    return f"{place} · {system}" if len(set(places)) > 1 else system
