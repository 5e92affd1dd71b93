"""Exposure and quality by group, for the report and the terminal."""

from collections.abc import Sequence
from html import escape

from reranker.evaluation import exposure, user_groups
from reranker.evaluation.exposure import Exposure, exposure_cells, share_rows
from reranker.evaluation.reporting.tables import html_table, markdown_table
from reranker.evaluation.reporting.verdict import FEW_USERS
from reranker.evaluation.user_groups import GroupQuality, quality_cells, single_users

SYSTEMS = ("first_stage", "baseline", "lexical_fused", "fused", "served")
"""Whose shares stand side by side, those of them that were run; other systems have a row of measures."""


def exposure_section(found: Sequence[Exposure]) -> str:
    """Measures of every system, then the shares of the largest groups."""
    note = (
        f"Exposure of the first {found[0].k} places, a place k weighing 1 / log2(k + 1); shares with 95 % intervals by "
        "bootstrap over users. Gini: 0 where all groups are shown alike, near 1 where one takes all. Coverage: groups "
        "that anyone is shown. Miscalibration (Steck 2018): how far a user's list is from the mix of the user's own "
        "history, 0 is the same; lower is closer. A share is fair or not by what you hold it against: both the share "
        "of earlier choices and that of the catalogue stand beside it."
    )
    parts = [f"<p class=note>{escape(note)}</p>", html_table(exposure.HEADER, exposure_cells(found))]
    alone = {one.no_history for one in found} - {0}
    if alone:
        parts.append(f"<p class=few>{max(alone)} users have no history: they have no miscalibration.</p>")
    for key in dict.fromkeys((one.domain, one.split, one.grouping) for one in found):
        some = [one for one in found if (one.domain, one.split, one.grouping) == key]
        shown = [one for one in some if one.system in SYSTEMS] or some[:4]
        if shown[0].grouping != "popularity" and len(shown[0].groups) < 2:
            continue
        domain, _, grouping = key
        parts.append(f"<h3>{escape(domain)}: by {escape(grouping)}</h3>{html_table(*share_rows(shown))}")
    return "".join(parts)


def group_section(found: Sequence[GroupQuality]) -> str:
    """A row a system and group; groups of one user are named."""
    parts = [
        f"<p class=note>{escape(found[0].metric)} of each group's users; the gain is paired by user.</p>",
        html_table(user_groups.HEADER, quality_cells(found, FEW_USERS)),
    ]
    if alone := single_users(found):
        parts.append(f"<p class=few>Groups of one user, without an interval: {escape(', '.join(alone))}.</p>")
    return "".join(parts)


def fairness_table(found: Sequence[Exposure]) -> str:
    """The measures of every system as Markdown."""
    return markdown_table(exposure.HEADER, exposure_cells(found))


def groups_table(found: Sequence[GroupQuality]) -> str:
    """Quality by user group as Markdown."""
    return markdown_table(user_groups.HEADER, quality_cells(found, FEW_USERS))
