"""Item vectors of the user's own: what is taken, what is named, what is refused."""

import numpy as np
import pandas as pd
import pytest

from reranker import Dataset
from reranker.data.item_vectors import MOST_NUMBERS, ItemVectors
from reranker.errors import DataError

ITEMS = pd.Series(["a", "b", "c"], name="item_id")
TABLE = pd.DataFrame({"item_id": ["b", "a", "z"], "vector": [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]})


def saved(folder, **arrays):
    np.savez(folder / "vectors.npz", **arrays)
    return folder / "vectors.npz"


def test_unknown_items_are_left_out_and_items_without_a_vector_counted():
    found = ItemVectors.of(TABLE, ITEMS)
    assert found.ids == ["b", "a"]
    assert found.values.tolist() == [[1, 0], [0, 2]]
    assert found.summary(ITEMS.tolist()) == (
        "item vectors of 2 numbers: 2 of 3 items have one, the others are compared by what else is known; not used, of "
        "items in no table: 1"
    )


def test_an_npz_is_the_same_as_a_table(tmp_path):
    expected = ItemVectors.of(TABLE, ITEMS)
    values = np.array(TABLE["vector"].tolist(), dtype=np.float16)
    npz = saved(tmp_path, item_id=np.array(["b", "a", "z"]), vector=values)
    TABLE.to_parquet(tmp_path / "vectors.parquet")
    wide = pd.DataFrame({"item_id": ["b", "a", "z"], "x": [1.0, 0, 3], "y": [0.0, 2, 4]})
    for given in (npz, str(npz), tmp_path / "vectors.parquet", wide):
        found = ItemVectors.of(given, ITEMS)
        assert found.ids == expected.ids and (found.values == expected.values).all()
        assert (found.near == expected.near).all()


def test_whole_numbers_become_the_texts_that_the_items_are(tmp_path):
    npz = saved(tmp_path, item_id=np.array([7, 8]), vector=np.eye(2))
    assert ItemVectors.of(npz, pd.Series(["7", "8"])).ids == ["7", "8"]
    assert ItemVectors.of(npz, pd.Series([7, 8])).ids == [7, 8]


def test_missing_and_zero_vectors_are_items_without_one():
    table = pd.DataFrame({"item_id": ["a", "b", "c"], "vector": [[1.0, 2.0], None, [0.0, 0.0]]})
    assert ItemVectors.of(table, ITEMS).ids == ["a"]
    with pytest.raises(DataError, match="is missing or zero"):
        ItemVectors.of(table[1:], ITEMS)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"item_id": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]},
            r"another length than 2.*lengths \(row 1",
        ),
        ({"item_id": ["a", "b"], "vector": [[1.0, 2], [1, np.nan]]}, r"not finite \(row 1: 'b'\)"),
        ({"item_id": ["a", "b"], "x": [1.0, np.inf], "y": [1.0, 1.0]}, r"not finite \(row 1: 'b'\)"),
        ({"item_id": ["a", "a"], "x": [1.0, 2], "y": [1.0, 2]}, r"appears more than once.*row 1: 'a'"),
        ({"item_id": ["x", "y"], "x": [1.0, 2], "y": [1.0, 2]}, "2 of 2 rows hold an id that is not in the item table"),
        ({"item_id": [1, 2], "x": [1.0, 2], "y": [1.0, 2]}, "convert"),
        ({"item_id": ["a"], "x": ["red"]}, "hold no numbers"),
        ({"item_id": ["a", "b"], "x": [1.0, 2.0]}, rf"vectors of 1 numbers; 2 to {MOST_NUMBERS:,} are taken"),
        ({"id": ["a"], "x": [1.0]}, "lacks the column 'item_id'"),
    ],
)
def test_what_is_wrong_is_told(table, message):
    with pytest.raises(DataError, match=message):
        ItemVectors.of(pd.DataFrame(table), ITEMS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"item_id": np.array(["a"], dtype=object), "vector": np.eye(1)}, "ids as texts or whole numbers"),
        ({"ids": np.array(["a"]), "vector": np.eye(1)}, "needs the arrays 'item_id' and 'vector'; it has ids, vector"),
        ({"item_id": np.array(["a"]), "vector": np.ones(3)}, r"is float64 of shape \(3,\)"),
        ({"item_id": np.array([1.5]), "vector": np.eye(1)}, "must be a row of texts or whole numbers"),
        ({"item_id": np.array(["a"]), "vector": np.eye(2)}, "1 ids and 2 vectors"),
    ],
)
def test_an_npz_of_something_else_is_refused(arrays, message, tmp_path):
    with pytest.raises(DataError, match=message):
        ItemVectors.of(saved(tmp_path, **arrays), ITEMS)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not exist"):
        ItemVectors.of(tmp_path / "none.npz", ITEMS)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"cannot read item vectors.*numpy\.savez"):
        ItemVectors.of(tmp_path / "text.npz", ITEMS)


def test_more_vectors_must_be_as_wide_and_stand_in_for_older_ones():
    known = ItemVectors.of(TABLE, ITEMS)
    newer = pd.DataFrame({"item_id": ["c", "a"], "vector": [[5.0, 5.0], [9.0, 9.0]]})
    more = known.with_more(ItemVectors.of(newer, ITEMS, known.space))
    assert more.ids == ["b", "c", "a"]
    assert more.values.tolist() == [[1, 0], [5, 5], [9, 9]]
    with pytest.raises(DataError, match="vectors of 3 numbers, those known have 2"):
        ItemVectors.of(pd.DataFrame({"item_id": ["c"], "vector": [[1.0, 2, 3]]}), ITEMS, known.space)


def test_a_data_set_takes_a_table_and_keeps_what_it_made_of_it():
    interactions = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1, 2]})
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": list("ABC")})
    data = Dataset(interactions=interactions, items=items, item_vectors=TABLE)
    assert data.item_vectors.ids == ["b", "a"]
    assert data.with_interactions(interactions[:1]).item_vectors is data.item_vectors
