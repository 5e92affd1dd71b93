"""What of newer histories a run does not use is counted and named."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.batch.inputs import InputTable
from reranker.batch.unused import HistoriesUse
from tests.batch.helpers import offline, write
from tests.cli import command

USERS = st.lists(st.integers(0, 9), min_size=1, max_size=20).map(sorted)


def table_of(users, pieces, kind, folder):
    """A table in as many files as there are pieces: a batch each."""
    folder.mkdir()
    files = []
    for number, size in enumerate(pieces):
        users, part = users[size:], users[:size]
        files.append(folder / f"{number}.parquet")
        pq.write_table(pa.table({"user_id": pa.array(part, pa.int64()).cast(kind)}), files[-1])
    return InputTable.open(files, {"user_id": "user_id"})


@settings(max_examples=60, deadline=None)
@given(data=st.data(), histories=USERS, lists=USERS, kind=st.sampled_from([pa.int64(), pa.string()]))
def test_users_without_a_list_are_counted_over_any_batches(tmp_path_factory, data, histories, lists, kind):
    folder = tmp_path_factory.mktemp("unused")
    sizes = [data.draw(st.lists(st.integers(1, 4), min_size=0, max_size=3)) for _ in range(2)]
    there = table_of(histories, [*sizes[0], 20], kind, folder / "histories")
    found = HistoriesUse.of(there, table_of(lists, [*sizes[1], 20], kind, folder / "lists"))
    without = [user for user in histories if user not in lists]
    assert (found.rows, found.users) == (len(histories), len(set(histories)))
    assert (found.rows_without_list, found.users_without_list) == (len(without), len(set(without)))
    assert list(map(int, found.examples)) == sorted(set(without))[:3]


NEWER = pd.DataFrame(
    {
        "user_id": ["u001", "u001", "somebody", "zz", "zz"],
        "item_id": ["g0i1", "unheard-of", "g0i1", "g1i1", "g1i1"],
        "ts": [1, 2, 3, 4, 5],
    }
)


def test_the_summary_says_what_of_the_interactions_was_not_used(bundle, folder):
    write(NEWER, folder / "newer.parquet")
    summary = offline(bundle, folder, interactions=folder / "newer.parquet").run()
    assert summary["interactions"] == {
        "rows": 5,
        "users": 3,
        "rows_without_list": 3,
        "users_without_list": 2,
        "examples": ["somebody", "zz"],
        "rows_of_unknown_items": 1,
        "has_timestamps": False,
        "unused_columns": ["ts"],
    }
    assert json.loads((folder / "out" / "summary.json").read_text())["interactions"] == summary["interactions"]
    assert "interactions" not in offline(bundle, folder, out="without").run()


@pytest.mark.parametrize("out", ["ranked.parquet", "folder"])
def test_the_command_says_it_in_both_ways(bundle, folder, out):
    write(NEWER, folder / "newer.parquet")
    flags = ("--bundle", bundle, "--candidates", folder / "candidates.parquet", "--order", "baseline")
    said, _ = command.run("rerank", *flags, "--interactions", folder / "newer.parquet", "--out", folder / out)
    words = (
        "2 of 3 users of the interactions have no list here, for instance 'somebody', 'zz': 3 of 5 rows are not used"
    )
    assert words in said
    assert "columns of the interactions that were not used: ts. 'ts' may be timestamp" in said
    write(NEWER.assign(timestamp=NEWER["ts"]), folder / "newer.parquet")
    said, _ = command.run("rerank", *flags, "--interactions", folder / "newer.parquet", "--out", folder / f"2{out}")
    assert "may be timestamp" not in said
