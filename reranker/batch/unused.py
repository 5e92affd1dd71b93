"""Newer histories that a run does not use: those of users without a list."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reranker.batch.inputs import InputTable, without_nan
from reranker.data.schema import USER

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class HistoriesUse:
    """Newer histories and the lists of a run.

    Attributes:
        rows, users: of the histories.
        rows_without_list, users_without_list: of those, of users without a list, which nothing uses.
        examples: some such users.
    """

    rows: int
    users: int
    rows_without_list: int
    users_without_list: int
    examples: tuple[Any, ...]

    @classmethod
    def of(cls, histories: InputTable, candidates: InputTable) -> "HistoriesUse":
        """Goes through the users of both side by side, as they stand in order: two batches at most are in memory."""
        lists = _users(candidates)
        here = next(lists, None)
        rows = users = rows_without = users_without = 0
        examples = list[Any]()
        last: Any = None
        for there in _users(histories):
            listed = np.zeros(len(there.ids), dtype=np.bool_)
            while here is not None:
                listed |= np.asarray(pc.is_in(there.ids, value_set=here.ids))
                if pc.greater_equal(here.ids[-1], there.ids[-1]).as_py():
                    break  # its users may go on in the next batch
                here = next(lists, None)
            new = np.ones(len(there.ids), dtype=np.bool_)
            new[0] = last is None or there.ids[0] != last
            last = there.ids[-1]
            rows, users = rows + int(there.rows.sum()), users + int(new.sum())
            rows_without += int(there.rows[~listed].sum())
            users_without += int((new & ~listed).sum())
            if len(examples) < _SHOWN:
                examples += there.ids.filter(pa.array(new & ~listed)).slice(0, _SHOWN - len(examples)).to_pylist()
        return cls(
            rows=rows,
            users=users,
            rows_without_list=rows_without,
            users_without_list=users_without,
            examples=tuple(examples),
        )

    def to_json(self) -> dict[str, Any]:
        """Counts, and the users as JSON has them: numbers or texts."""
        return {
            "rows": self.rows,
            "users": self.users,
            "rows_without_list": self.rows_without_list,
            "users_without_list": self.users_without_list,
            "examples": [one if isinstance(one, int | str) else str(one) for one in self.examples],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Users:
    """Users of a batch in their order, each once, and how many rows each has."""

    ids: Any
    rows: NDArray[np.int64]


def _users(table: InputTable) -> Iterator[_Users]:
    for batch in table.only(USER).batches():
        ids = without_nan(batch.column(USER)).drop_null()
        if not len(ids):
            continue
        starts = np.flatnonzero(np.concatenate([[True], np.asarray(pc.not_equal(ids[1:], ids[:-1]))]))
        yield _Users(ids=ids.take(pa.array(starts)), rows=np.diff(np.append(starts, len(ids))))
