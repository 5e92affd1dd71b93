"""One plain-text table of an evaluation, for terminals and READMEs."""

from collections.abc import Iterator

import numpy as np

from reranker.evaluation.runner import Results
from reranker.evaluation.significance import POOLED, Comparison


def comparison_table(results: Results, metric: str = "ndcg@10") -> str:
    """Value of `metric` by system and domain, and each gain with its interval, as Markdown.

    An asterisk marks a difference that Holm's correction leaves significant at 5 %. Gains over 0 are differences, not
    shares.
    """
    return "\n".join(_lines(results, metric))


def _lines(results: Results, metric: str) -> Iterator[str]:
    name, _, cutoff = metric.partition("@")
    settings = results.settings
    rows = results.rows
    rows = rows[(rows["metric"] == name) & (rows["candidates"] == settings.candidates[0])]
    if cutoff:
        rows = rows[rows["k"] == int(cutoff)]
    rows = rows[rows["protocol"].str.startswith(settings.protocols[0])]
    yield f"| domain | split | users | system | {metric} | against | gain | 95 % interval |"
    yield "|---|---|---|---|---|---|---|---|"
    for (domain, split, system), group in rows.groupby(["domain", "split", "system"], sort=False):
        place = f"| {domain} | {split} | {int(group['n_users'].iloc[0])} | {system} | {group['value'].mean():.4f} "
        gains = [one for one in results.comparisons if _key(one) == (split, domain, system, metric)]
        yield from (f"{place}| {_gain(gain)} |" for gain in gains)
        if not gains:
            yield f"{place}| | | |"
    for gain in results.comparisons:
        if gain.domain == POOLED and gain.metric == metric:
            yield f"| pooled | {gain.split} | {gain.n_users} | {gain.system} | | {_gain(gain)} |"


def _key(gain: Comparison) -> tuple[str, str, str, str]:
    return gain.split, gain.domain, gain.system, gain.metric


def _gain(gain: Comparison) -> str:
    mark = "*" if gain.p_holm < 0.05 else ""
    if np.isnan(gain.relative):  # a share of nothing
        return f"{gain.versus} | {gain.mean:+.4f}{mark} | {gain.low:+.4f} .. {gain.high:+.4f}"
    return (
        f"{gain.versus} | {gain.relative:+.1%}{mark} | {gain.relative_low:+.1%} .. {gain.relative_high:+.1%} "
        f"({gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}])"
    )


def gain_matrix(results: Results, metric: str = "ndcg@10") -> str:
    """The same gains as one small Markdown table: a row a pair of systems and split, a column a domain."""
    gains = {
        (one.split, one.system, one.versus, one.domain): one for one in results.comparisons if one.metric == metric
    }
    domains = list(dict.fromkeys(domain for *_, domain in gains))
    rows = list(dict.fromkeys(key[:3] for key in gains))
    lines = [f"| {metric}, split | system | against | " + " | ".join(domains) + " |", "|---" * (len(domains) + 3) + "|"]
    for row in rows:
        cells = [_cell(gains.get((*row, domain))) for domain in domains]
        lines.append("| " + " | ".join([*row, *cells]) + " |")
    return "\n".join(lines)


def length_table(results: Results, metric: str = "ndcg@10") -> str:
    """Mean of `metric` by length of the candidate list, as Markdown: a row a system, a column a length."""
    name, _, cutoff = metric.partition("@")
    rows = results.rows[results.rows["metric"] == name]
    if cutoff:
        rows = rows[rows["k"] == int(cutoff)]
    rows = rows[rows["protocol"].str.startswith(results.settings.protocols[0])]
    table = rows.pivot_table(
        index=["domain", "split", "system"], columns="candidates", values="value", aggfunc="mean", sort=False
    ).sort_index(axis=1)
    lines = [
        f"| {metric} | split | system | " + " | ".join(f"{n} candidates" for n in table.columns) + " |",
        "|---" * (3 + len(table.columns)) + "|",
    ]
    for keys, values in zip(table.index, table.to_numpy(dtype=np.float64), strict=True):
        cells = ["" if np.isnan(value) else f"{value:.4f}" for value in values]
        lines.append("| " + " | ".join([*map(str, keys), *cells]) + " |")
    return "\n".join(lines)


def _cell(gain: Comparison | None) -> str:
    if gain is None:
        return ""
    mark = "*" if gain.p_holm < 0.05 else ""
    if np.isnan(gain.relative):
        return f"{gain.mean:+.4f}{mark} [{gain.low:+.4f}, {gain.high:+.4f}]"
    return f"{gain.relative:+.0%}{mark} [{100 * gain.relative_low:+.0f}, {100 * gain.relative_high:+.0f}]"
