"""Exposure and quality by group, for the report and the terminal."""

from collections.abc import Iterator, Sequence

from reranker.evaluation import exposure, user_groups
from reranker.evaluation.exposure import Exposure, exposure_cells, share_rows
from reranker.evaluation.reporting.tables import Table
from reranker.evaluation.reporting.verdict import FEW_USERS
from reranker.evaluation.user_groups import GroupQuality, quality_cells

SYSTEMS = ("first_stage", "baseline", "lexical_fused", "fused", "served")
"""Whose shares stand side by side, those of them that were run; other systems have a row of measures."""


def fairness_table(found: Sequence[Exposure]) -> Table:
    """Inequality, coverage and miscalibration: a row a system and grouping."""
    return Table(exposure.HEADER, exposure_cells(found))


def share_tables(found: Sequence[Exposure]) -> Iterator[tuple[str, str, Table]]:
    """Domain, grouping and the shares of its largest groups; a grouping of a single group says nothing."""
    for key in dict.fromkeys((one.domain, one.split, one.grouping) for one in found):
        some = [one for one in found if (one.domain, one.split, one.grouping) == key]
        shown = [one for one in some if one.system in SYSTEMS] or some[:4]
        domain, _, grouping = key
        if grouping == "popularity" or len(shown[0].groups) > 1:
            yield domain, grouping, Table(*share_rows(shown))


def groups_table(found: Sequence[GroupQuality]) -> Table:
    """A row a system and group."""
    return Table(user_groups.HEADER, quality_cells(found, FEW_USERS))
