"""The matrix of a table: the same of integers as of other ids, and little memory a row."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from candidate_gen.matrix import InteractionMatrix, newest_weights
from reranker.data.schema import validate_interactions


def table(rows: int, times: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    made = pd.DataFrame({"user_id": rng.integers(0, rows // 10, rows), "item_id": rng.integers(0, rows // 20, rows)})
    return made.assign(timestamp=np.arange(rows)) if times else made


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
@pytest.mark.parametrize("shuffled", [False, True])
def test_integers_are_read_as_other_ids_are(dtype: type, shuffled: bool) -> None:
    numbers = table(3000).astype({"user_id": dtype, "item_id": dtype})
    if shuffled:
        numbers["timestamp"] = np.random.default_rng(1).permutation(len(numbers)) // 3  # with ties
    objects = numbers.astype({"user_id": object, "item_id": object})
    found = []
    for one in (numbers, objects):
        checked = validate_interactions(one)
        matrix = InteractionMatrix.from_table(one)
        found.append((matrix, newest_weights(checked, matrix, 5, 0.9)))
    (mine, recent), (theirs, also) = found
    assert mine.user_ids == theirs.user_ids and mine.item_ids == theirs.item_ids
    assert {type(one) for one in (*mine.user_ids, *mine.item_ids)} == {int}
    for one, other in ((mine.matrix, theirs.matrix), (recent, also)):
        assert one.dtype == np.float32 and (one != other).nnz == 0
    np.testing.assert_array_equal(mine.popularity, theirs.popularity)


def test_a_matrix_takes_little_memory_a_row() -> None:
    rows = 200_000
    made = table(rows)
    tracemalloc.start()
    try:
        matrix = InteractionMatrix.from_table(made)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert matrix.matrix.nnz > 0.9 * rows
    assert peak < 100 * rows  # bytes; it was 114


def test_times_in_order_are_not_sorted_again() -> None:
    rows = 200_000
    made = table(rows)
    tracemalloc.start()
    try:
        checked = validate_interactions(made)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    pd.testing.assert_frame_equal(checked, made)
    assert checked is not made and peak < 60 * rows  # its columns twice; it was 114 bytes a row
