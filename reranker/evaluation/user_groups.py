"""Quality by group of users: who gains from a system, and who does not.

This is the grouped mean that fairlearn's MetricFrame gives, of each user's own metric; that library would bring
scikit-learn, and resamples predictions where the unit here is the user.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from reranker.data.schema import USER, require_columns
from reranker.errors import DataError
from reranker.evaluation.diagnostics import history_length_buckets
from reranker.evaluation.metrics import per_user_metrics
from reranker.evaluation.runner import Results, Run
from reranker.pipeline.lists import FoldLists
from reranker.utils.statistics import Interval, mean_interval

NOT_GIVEN = "(not given)"
MOST_GROUPS = 50
"""Of one column; a column of more names users rather than groups."""


@dataclass(frozen=True, kw_only=True)
class GroupQuality:
    """A metric of one group of users under one system.

    Attributes:
        grouping: "history length", or a column of the table of users.
        group: its name.
        metric: for instance "ndcg@10".
        value: mean over the group's users; its interval is NaN for a single user.
        gain: the same minus that of the baseline, paired by user; None of the baseline itself.
    """

    domain: str
    split: str
    system: str
    grouping: str
    group: str
    metric: str
    value: Interval
    gain: Interval | None

    def record(self) -> dict[str, object]:
        """For results.json."""
        return asdict(self)


def read_user_groups(table: pd.DataFrame) -> pd.DataFrame:
    """A validated table of users: one row a user, each further column a grouping.

    Raises:
        DataError: no column of groups, a user stands twice, or a column holds more than `MOST_GROUPS` groups.
    """
    require_columns(table, [USER], "user groups")
    columns = table.columns.drop(USER)
    if not len(columns):
        raise DataError(
            "table 'user groups' has no column beside 'user_id': give one for each grouping, such as region"
        )
    twice = table[USER].duplicated()
    if twice.any():
        first = table[USER][twice].iloc[0]
        raise DataError(f"table 'user groups': user {first!r} stands {int(twice.sum()) + 1} times; one row a user")
    for column in columns:
        if (n := table[column].nunique()) > MOST_GROUPS:
            raise DataError(
                f"table 'user groups', column {column!r}: {n} groups, at most {MOST_GROUPS}: put values into bands"
            )
    return table


def group_qualities(results: Results, groups: pd.DataFrame | None = None) -> list[GroupQuality]:
    """The first compared metric by group of users, of every system's first seed, on the first list length.

    Args:
        results: of an evaluation.
        groups: of `read_user_groups`; users that it lacks are a group of their own.

    Raises:
        DataError: the table names none of the test users.
    """
    settings = results.settings
    metric, n, protocol = settings.compared[0], settings.candidates[0], settings.protocols[0]
    values: dict[tuple[int, str], tuple[Run, pd.Series]] = {}
    for run in results.runs:
        if run.lists.n == n and (protocol == "end_to_end" or run.lists.covered.any()):
            key = (id(run.lists), run.system)
            if key not in values:
                values[key] = run, per_user_metrics(run.lists, run.scores, protocol, settings.ks)[metric]
    found = []
    for (place, system), (run, mine) in values.items():
        base = None if system == settings.baseline else values.get((place, settings.baseline))
        for grouping, names in _groupings(run.lists, groups).items():
            of_user = pd.Series(names).reindex(mine.index)
            for group in dict.fromkeys(sorted(of_user, key=_length_order)):
                inside = (of_user == group).to_numpy()
                own = mine[inside].to_numpy(dtype=np.float64)
                gain = None if base is None else mean_interval(own - base[1][inside].to_numpy(dtype=np.float64))
                found.append(
                    GroupQuality(
                        domain=run.lists.fold.domain,
                        split=run.lists.fold.split,
                        system=system,
                        grouping=grouping,
                        group=group,
                        metric=metric,
                        value=mean_interval(own),
                        gain=gain,
                    )
                )
    return found


def _groupings(lists: FoldLists, groups: pd.DataFrame | None) -> dict[str, list[str]]:
    """Grouping -> (users,) group of each test user."""
    found = {"history length": history_length_buckets(lists)}
    if groups is None:
        return found
    users = pd.Series(lists.fold.users, dtype=object)
    if not users.map(str).isin(groups[USER].map(str)).any():
        raise DataError(
            f"table 'user groups' names none of the {len(users)} test users of {lists.fold.domain!r}: are ids written "
            "as in the interactions?"
        )
    for column in groups.columns.drop(USER):
        of = dict(zip(groups[USER].map(str), groups[column], strict=True))
        given = (of.get(str(user)) for user in users)
        found[str(column)] = [NOT_GIVEN if one is None or one != one else str(one) for one in given]
    return found


def _length_order(name: str) -> tuple[int, str]:
    digits = name.rstrip("+").split("-")[0]
    return (int(digits), name) if digits.isdigit() else (0, name)


HEADER = ("", "group", "users", "value, 95 % interval", "over the list that came in")


def quality_cells(found: Sequence[GroupQuality], few: int) -> list[list[str]]:
    """Rows under `HEADER`, formatted; a group of one user has no interval, one of fewer than `few` is marked."""
    return [
        [
            f"{one.domain} · {one.system}",
            f"{one.grouping}: {one.group}",
            f"{one.value.n}{' (few)' if one.value.n < few else ''}",
            _cell(one.value, ""),
            "" if one.gain is None else _cell(one.gain, "+"),
        ]
        for one in found
    ]


def single_users(found: Sequence[GroupQuality]) -> list[str]:
    """Groups that hold one user."""
    return list(dict.fromkeys(f"{one.grouping}: {one.group}" for one in found if one.value.n == 1))


def _cell(value: Interval, sign: str) -> str:
    if value.n == 1:
        return f"{value.mean:{sign}.4f} (one user, no interval)"
    return f"{value.mean:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"
