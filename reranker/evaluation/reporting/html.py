"""One HTML file that needs nothing else: tables and plots, readable on a phone, light and dark."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from reranker.evaluation.diagnose import HEADER, Diagnosis, attacks_of, diagnosis_cells
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
from reranker.evaluation.reporting.fairness import exposure_section, group_section
from reranker.evaluation.reporting.tables import html_table
from reranker.evaluation.reporting.verdict import FEW_USERS, Provenance, verdict
from reranker.evaluation.robustness import ATTACK_HEADER
from reranker.evaluation.runner import Results, Run, Settings
from reranker.evaluation.significance import POOLED, Comparison
from reranker.evaluation.user_groups import GroupQuality
from reranker.utils.atomic_io import write_text

PRODUCT = ("fused", "served", "llm")
"""Systems of ours that a report looks at closely, the first that was run."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --page: #fff; --shade: #0003; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; color: #1b1f24;
  background: var(--page); }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
.scroll {{ overflow-x: auto; background:
  linear-gradient(to left, var(--page) 40%, #0000) right / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--shade), #0000) right / .8rem 100% no-repeat scroll; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8886; }}
th {{ white-space: normal; vertical-align: bottom; }} h1, li, p {{ overflow-wrap: anywhere; }}
th:first-child, td:first-child {{ text-align: left; }}
th:first-child, td:first-child {{ white-space: normal; min-width: 6.5rem; }}
td.wrap {{ white-space: normal; }} td.wrap span {{ white-space: nowrap; }}
.verdict {{ border-left: 4px solid #2f7ed8; padding: .1rem 1rem; background: #2f7ed818; }}
.verdict p:first-child {{ font-size: 1.15rem; font-weight: 600; }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem; max-width: 44rem; }}
.pair ol {{ margin: .25rem 0; padding-left: 1.6rem; }} .pair b {{ display: block; }}
mark {{ background: #ffe08a; color: #1b1f24; }}
code {{ overflow-wrap: anywhere; }} .few {{ opacity: .65; font-style: italic; }}
td.words {{ text-align: left; white-space: normal; }}
@media (max-width: 40rem) {{ body {{ padding: .6rem; }} table {{ font-size: .75rem; }}
  th:first-child, td:first-child {{ min-width: 5rem; }}
  th, td {{ padding: .2rem .2rem; }}
  .pair {{ gap: 0 .7rem; font-size: .85rem; }} }}
svg {{ width: 100%; height: auto; max-width: 40rem; }} .note {{ color: #5b6470; font-size: .9rem; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #14171a; --shade: #fff4; }}
  body {{ color: #e6e8eb; }} .note {{ color: #a5adb8; }} }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


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
    protocol, n = results.settings.protocols[0], results.settings.candidates[0]
    metric, baseline = results.settings.compared[0], results.settings.baseline
    main = [comparison for comparison in results.comparisons if comparison.metric == metric]
    runs = [run for run in results.runs if run.lists.n == n]
    parts = [_verdict(results), _intro(runs, results.settings, protocol), _values(results, n)]
    for split, versus in dict.fromkeys((one.split, one.versus) for one in main):
        some = [one for one in main if (one.split, one.versus) == (split, versus)]
        heading = f"{metric} against {versus}" + (f", {split}" if _several_splits(runs) else "")
        plot = plots.gain_by_system(_overview(some)) if versus == baseline else ""
        parts.append(_section(heading, plot + _comparisons(some)))
    first = [run for run in runs if run.lists.fold.split == runs[0].lists.fold.split]
    against = [one for one in main if one.versus == baseline and one.split == first[0].lists.fold.split]
    if against:
        best = max(_overview(against), key=lambda comparison: comparison.mean).system
        ours = [name for name in PRODUCT if any(run.system == name for run in first)]
        chosen = focus or next(iter(ours), best)
        parts.append(_examples(first, chosen))
        parts += _closer_look(first, results.settings, chosen)
    if exposures:
        parts.append(_section("Who is shown", exposure_section(exposures)))
    if groups:
        parts.append(_section("Quality by user group", group_section(groups)))
    parts.append(_costs(runs))
    if diagnoses:
        parts.append(_diagnoses(diagnoses))
    parts.append(_made(results, provenance))
    write_text(path, _PAGE.format(title=escape(title), body="\n".join(parts)))


def _verdict(results: Results) -> str:
    sentences = verdict(results)
    return f"<div class=verdict>{''.join(f'<p>{escape(one)}</p>' for one in sentences)}</div>" if sentences else ""


def _examples(runs: Sequence[Run], focus: str) -> str:
    """Before and after, of the first domain that the system was run on."""
    run = next((run for run in runs if run.system == focus), None)
    examples = example_lists(run) if run is not None else []
    if run is None or not examples:
        return ""

    def listed(titles: Sequence[tuple[str, bool]]) -> str:
        marked = (f"<mark>{escape(title)}</mark>" if hit else escape(title) for title, hit in titles)
        return "<ol>" + "".join(f"<li>{title}</li>" for title in marked) + "</ol>"

    parts = []
    for one in examples:
        history = "; ".join(one.history) or "nothing"
        parts.append(
            f"<p><b>{escape(run.lists.fold.domain)}, user {escape(str(one.user))}</b>, {escape(one.why)}: "
            f"place {one.before} before, {one.after} after. Chose before: {escape(history)}. Chose then: "
            f"<mark>{escape(one.target)}</mark></p><div class=pair><div><b>as it came in</b>{listed(one.titles_before)}"
            f"</div><div><b>{escape(focus)}</b>{listed(one.titles_after)}</div></div>"
        )
    return _section(f"{focus}: lists before and after", "".join(parts))


def _made(results: Results, provenance: Provenance | None) -> str:
    """What each system is, the settings, and how the report was made."""
    names = dict.fromkeys(run.system for run in results.runs)
    known = [(name, SYSTEMS[name]) for name in names if name in SYSTEMS]
    rows = "".join(f"<tr><td>{escape(name)}</td><td class=words>{escape(what)}</td></tr>" for name, what in known)
    parts = [_section("What each system is", f"<table>{rows}</table>")] if known else []
    if provenance is not None:
        made, command, versions = (escape(line) for line in provenance.lines())
        parts.append(_section("How this was made", f"<p>{made} <code>{command}</code> {versions}</p>"))
    return "".join(parts)


def _overview(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The pooled comparisons where there are any."""
    pooled = [comparison for comparison in comparisons if comparison.domain == POOLED]
    return pooled or list(comparisons)


def _several_splits(runs: Sequence[Run]) -> bool:
    return len({run.lists.fold.split for run in runs}) > 1


def _place(run: Run, several: bool) -> str:
    """Which lists a row is about; the split only where there is more than one."""
    fold = run.lists.fold
    return f"{fold.domain}, {fold.split}" if several else fold.domain


def _intro(runs: Sequence[Run], settings: Settings, protocol: str) -> str:
    lines = []
    for run in {id(run.lists): run for run in runs}.values():
        lists = run.lists
        line = (
            f"{lists.fold.domain}: {len(lists.fold.users)} test users, split {lists.fold.split}, {lists.n} candidates; "
            f"the target is among them for {lists.covered.mean():.1%} of the users."
        )
        if not lists.fold.ordered:
            line += " No order in time: nothing here speaks of sequence."
        if lists.injected:
            line += " Missed targets were put into the lists: do not compare with other results."
        lines.append(f"<li>{escape(line)}</li>")
    if settings.covered_only:
        lines.append("<li>Lists without a target were not read; coverage describes the others.</li>")
    meaning = "a missed target counts as zero" if protocol == "end_to_end" else "only users whose list holds a target"
    return f"<ul>{''.join(lines)}</ul><p class=note>Protocol {escape(protocol)}: {meaning}.</p>"


def _values(results: Results, n: int) -> str:
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
    body = [
        [str(name), *(f"{value:.4f}" for value in row)]
        for name, row in zip(table.index, table.to_numpy(dtype=np.float64), strict=True)
    ]
    return _section("Systems", html_table(["", *map(str, table.columns)], body))


def _costs(runs: Sequence[Run]) -> str:
    """Latency, tokens and ties; of the first seed."""
    header = ["", "ms a user", "tokens a user", "tied scores", "seconds of fitting"]
    several = _several_splits(runs)
    places = [_place(run, several) for run in runs]
    rows: dict[str, list[str]] = {}
    for place, run in zip(places, runs, strict=True):
        tokens = run.cost["tokens_per_user"]
        rows.setdefault(
            _row_name(place, run.system, places),
            [
                f"{run.cost['ms_per_user']:.2f}",
                "" if np.isnan(tokens) else f"{tokens:.0f}",
                f"{tied_share(run.lists, run.scores):.1%}",
                f"{run.fit_seconds:.1f}",
            ],
        )
    note = (
        "A reading that several systems share counts in full for each in the first two columns, and once, for the "
        "first of them, in the last. Equal scores keep the first-stage order."
    )
    table = html_table(header, [[name, *cells] for name, cells in rows.items()])
    return _section("Latency, tokens and ties", f"{table}<p class=note>{note}</p>")


def _row_name(place: str, system: str, places: Sequence[str]) -> str:
    """The system, and where there are several places, which one the row is about."""
    return f"{place} · {system}" if len(set(places)) > 1 else system


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    header = ["", "difference, 95 % interval", "relative", "p (Holm)", "users"]
    domains = [c.domain for c in comparisons]
    body = [
        [
            _row_name(c.domain, c.system, domains),
            f"{c.mean:+.4f} [{c.low:+.4f}, {c.high:+.4f}]",
            "" if np.isnan(c.relative) else f"{c.relative:+.1%}",
            f"{c.p_holm:.3f}",
            f"{c.n_users}{' (few)' if c.n_users < FEW_USERS else ''}",
        ]
        for c in comparisons
    ]
    notes = "".join(f"<li>{escape(c.power_note)}</li>" for c in comparisons if c.power_note)
    return html_table(header, body) + (f"<ul class=note>{notes}</ul>" if notes else "")


def _closer_look(runs: Sequence[Run], settings: Settings, focus: str) -> list[str]:
    baseline, metric = settings.baseline, settings.compared[0]
    gains, lengths, popularities, movements = [], [], [], []
    last: Run | None = None
    for base in [run for run in runs if run.system == baseline]:
        mine = [run for run in runs if run.system == focus and run.lists is base.lists]
        if not mine:
            continue
        last = mine[0]
        both = [per_user_metrics(base.lists, run.scores, "end_to_end", settings.ks)[metric] for run in (last, base)]
        gains.append(both[0] - both[1])
        lengths += history_length_buckets(base.lists)
        popularities += item_popularity_buckets(base.lists)
        movements.append(rank_movement(base.lists, ranks(base.lists, last.scores)))
    if last is None:
        return []
    gain = pd.concat(gains, ignore_index=True)
    movement = np.concatenate(movements)
    parts = []
    for heading, buckets, xlabel in (
        ("history length", lengths, "history"),
        ("popularity of the target", popularities, "popularity"),
    ):
        table = by_bucket(gain, buckets)
        body = plots.gain_by_bucket(table, xlabel, metric) + _few(table)
        parts.append(_section(f"{focus}: gain by {heading}", body))
    if len(movement):
        parts.append(_section(f"{focus}: rank movement of the targets", plots.rank_movement_plot(movement)))
    if last.lists.covered.any():
        curve = calibration(last.lists, last.scores)
        note = (
            f"<p class=note>{escape(last.lists.fold.domain)}: expected calibration error {curve.error:.4f} of the "
            "softmax of the scores within a list</p>"
        )
        parts.append(_section(f"{focus}: calibration", plots.calibration_plot(curve) + note))
    return parts


def _few(table: pd.DataFrame) -> str:
    """Names the groups that are too small to be read."""
    small = table[table["n_users"] < FEW_USERS]
    if small.empty:
        return ""
    groups = ", ".join(f"{name} ({n} users)" for name, n in zip(small["bucket"], small["n_users"], strict=True))
    return f"<p class=few>Too few users to read anything into: {escape(groups)}.</p>"


def _diagnoses(diagnoses: Sequence[Diagnosis]) -> str:
    note = (
        "Order: 1 and 0 mean that the order of the input does not matter. Shuffled users: what is lost with another "
        "user's history is personal. Obfuscated titles: what is lost came from the words. Covered users only."
    )
    attack_note = (
        "A few items that the first stage puts below the top are attacked, all at once: two letters of each longer "
        "word swapped, capitals, titles of the most chosen items behind the own one, an instruction to the model "
        "in the title, and fake users (one for each hundred) who choose them among popular items. Places they rise in "
        "lists where they stood below the top, by user, and the share that comes into it. The guard is asked again of "
        "the attacked lists: it serves what is shown to be better than the order that came in, and stops what is shown "
        "to be worse; of few users, neither may be shown."
    )
    parts = [
        _section(
            "Where the gain comes from", html_table(HEADER, diagnosis_cells(diagnoses)) + f"<p class=note>{note}</p>"
        )
    ]
    if rows := attacks_of(diagnoses):
        table = html_table(ATTACK_HEADER, rows) + f"<p class=note>{attack_note}</p>"
        parts.append(_section("How far an attacker gets", table))
    return "".join(parts)


def _section(heading: str, body: str) -> str:
    return f"<h2>{escape(heading)}</h2>{body}"
