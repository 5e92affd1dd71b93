"""Cuts a table into parts of whole users; looks at nothing but the user column."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reranker.batch.inputs import InputTable, without_nan
from reranker.data.schema import USER
from reranker.types import IntArray


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where the parts begin.

    Attributes:
        starts: row number at which each part begins.
        rows: rows of the table.
        users: different users in it.
    """

    starts: tuple[int, ...]
    rows: int
    users: int

    def bounds(self, part: int) -> tuple[int, int]:
        """First row of a part, and the first row after it."""
        return self.starts[part], (*self.starts[part + 1 : part + 2], self.rows)[0]

    @property
    def sha256(self) -> str:
        """Two cuts with one hash make the same parts."""
        return hashlib.sha256(np.array([*self.starts, self.rows], dtype="<i8").tobytes()).hexdigest()


def cut(table: InputTable, part_users: int) -> Cut | None:
    """Parts of `part_users` users each, or None where the rows do not stand in the order of their users.

    Sorted is more than needed: together would do. But it is what can be checked with constant memory. A row without a
    user goes with the users before it.
    """
    starts, users, row = [0], 0, 0
    last: Any = None
    for batch in table.only(USER).batches():
        ids = without_nan(batch.column(USER))
        places = np.flatnonzero(np.asarray(ids.is_valid()))
        ids = ids.drop_null()
        if len(ids):
            before = pa.concat_arrays([ids[:1] if last is None else pa.array([last], ids.type), ids[:-1]])
            if pc.any(pc.less(ids, before)).as_py():
                return None
            new = np.asarray(pc.not_equal(ids, before))
            new[0] |= last is None
            first: IntArray = places[new] + row
            number = np.arange(users, users + len(first))
            starts.extend(first[(number % part_users == 0) & (number > 0)].tolist())
            users += len(first)
            last = ids[-1].as_py()
        row += len(batch)
    return Cut(starts=tuple(starts), rows=row, users=users)
