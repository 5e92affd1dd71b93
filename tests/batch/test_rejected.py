"""Rows in == rows ranked + rows rejected, each with its place and a reason."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.errors import DataError
from tests.batch.helpers import offline, ranking, rejected, write
from tests.pipeline import toys

KEY = ["user_id", "item_id"]


def test_each_bad_row_is_found_again_with_its_reason(bundle, folder):
    rows = [
        ("a", "g0i0", "1.0", 1.0),
        ("a", "g0i0", "0.5", 2.0),  # the item again
        ("a", "g0i1", "zero", 3.0),
        ("a", "g0i2", "inf", 4.0),
        ("a", None, "0.5", 5.0),
        ("b", "g0i0", None, 1.0),  # all that b has
        ("c", "g0i0", "1.0", 1.0),
        ("c", "g0i1", "0.9", 1.0),  # the rank again
        ("c", "g0i2", "0.8", np.nan),
        (None, "g0i3", "0.7", 1.0),
    ]
    write(pd.DataFrame(rows, columns=["user_id", "item_id", "score", "rank"]), folder / "candidates.parquet")
    summary = offline(bundle, folder).run()
    found = rejected(folder).sort_values("row")
    assert dict(zip(found["row"], found["reason"], strict=True)) == {
        1: "the item was proposed to this user before",
        2: "score is not a number",
        3: "score is not finite",
        4: "item_id is missing",
        5: "score is missing",
        7: "the rank appears twice in this user's list",
        8: "rank is missing",
        9: "user_id is missing",
    }
    assert found["file"].eq("candidates.parquet").all()
    assert found["score"].tolist()[1] == "zero"
    assert ranking(folder)[KEY].to_numpy().tolist() == [["a", "g0i0"], ["c", "g0i0"]]
    assert (summary["rows"], summary["ranked"], summary["rejected_rows"]) == (10, 2, 8)
    assert (summary["users"], summary["users_without_candidates"]) == (3, 1)


def test_places_are_those_of_the_original_files_after_sorting(bundle, tmp_path):
    (tmp_path / "in").mkdir()
    write(pd.DataFrame({"user_id": ["z", "z"], "item_id": ["g0i0", None], "rank": [1, 2]}), tmp_path / "in/1.parquet")
    write(pd.DataFrame({"user_id": ["a", "a"], "item_id": [None, "g0i1"], "rank": [1, 2]}), tmp_path / "in/2.parquet")
    offline(bundle, tmp_path, "in").run()
    found = rejected(tmp_path)
    assert set(zip(found["file"], found["row"], found["user_id"], strict=True)) == {
        ("1.parquet", 1, "z"),
        ("2.parquet", 0, "a"),
    }


def test_lines_of_a_csv_that_are_no_rows_are_kept(bundle, tmp_path):
    lines = ["user_id,item_id,score", "a,g0i0,1", "a,g0i1", "a,g0i2,x", "a,g0i3,0.5,more", "b,g0i0,1", ",g0i1,1"]
    (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    summary = offline(bundle, tmp_path, "c.csv").run()
    found = rejected(tmp_path).sort_values("row")
    assert found["row"].tolist() == [1, 2, 3, 5]
    assert found["line"].dropna().tolist() == ["a,g0i1", "a,g0i3,0.5,more"]
    assert (summary["rows"], summary["ranked"], summary["rejected_rows"]) == (6, 2, 4)


def test_a_table_without_one_good_row(bundle, folder):
    write(
        pd.DataFrame({"user_id": [None, None], "item_id": ["g0i0", "g0i1"], "score": [1.0, 1.0]}), folder / "c.parquet"
    )
    summary = offline(bundle, folder, "c.parquet").run()
    assert (summary["ranked"], summary["rejected_rows"], summary["users"], summary["served"]) == (0, 2, 0, [])
    assert ranking(folder).empty


ids = st.sampled_from(["a", "b", "c", None])
numbers = st.sampled_from([0.0, 1.0, 2.0, float("nan"), float("inf"), None])
rows = st.lists(
    st.tuples(ids, st.sampled_from(["g0i0", "g1i1", "g2i2", None]), numbers, numbers), min_size=1, max_size=30
)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@settings(max_examples=25, deadline=None)
@given(rows=rows, both=st.booleans(), part_users=st.integers(1, 3))
def test_every_row_comes_out_once(reranker, bundle, suffix, rows, both, part_users):
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "score", "rank"])
    if not both:
        frame = frame.drop(columns="rank")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if suffix == ".csv":
            frame.to_csv(folder / "c.csv", index=False)
        else:
            write(frame.astype({"user_id": "str", "item_id": "str"}), folder / "c.parquet")
        summary = offline(bundle, folder, f"c{suffix}", part_users=part_users).run(reranker=reranker)
        ranked, bad = ranking(folder), rejected(folder)
    assert summary["rows"] == len(frame) == len(ranked) + len(bad)
    assert summary["rejected"] == bad["reason"].value_counts().to_dict()
    assert sorted(bad["row"]) == sorted(set(bad["row"]))
    good = frame.drop(index=bad["row"])
    assert sorted(map(tuple, good[KEY].to_numpy())) == sorted(map(tuple, ranked[KEY].to_numpy()))
    assert not good[KEY].duplicated().any()


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted()


def test_ids_of_bytes_are_shown_in_digits_and_uuids_refused(bundle, folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = folder / "candidates.parquet"
    ids = [bytes([250 + number] * 16) for number in range(3)]
    rest = {"item_id": ["g0i0", "g0i1", "g0i2"], "score": [1.0, None, 3.0]}
    table = pa.table({"user_id": pa.array(ids, pa.binary(16)), **rest})
    pq.write_table(table, place)
    pq.write_table(table.select(["user_id", "item_id"]), folder / "newer.parquet")  # the bundle's are texts
    offline(bundle, folder, interactions=folder / "newer.parquet").run()
    assert rejected(folder)["user_id"].tolist() == ["fb" * 16] and len(ranking(folder)) == 2
    pq.write_table(pa.table({"user_id": pa.array(ids, pa.uuid()), **rest}), place)
    with pytest.raises(DataError, match=r"column 'user_id' is extension<arrow.uuid>; an id is a number or a text"):
        offline(bundle, folder).run(force=True)
