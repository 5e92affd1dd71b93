"""Candidate lists as arrays are the table they were made of."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from reranker.data.item_lists import ItemLists
from reranker.data.schema import validate_candidates

ids = st.one_of(st.integers(0, 9), st.sampled_from(["a", "b", "7"]))


@st.composite
def tables(draw):
    pairs = draw(st.lists(st.tuples(ids, ids), min_size=1, max_size=20, unique=True))
    frame = pd.DataFrame(
        {
            name: pd.Series(part, dtype=object)
            for name, part in zip(("user_id", "item_id"), zip(*pairs, strict=True), strict=True)
        }
    )
    return validate_candidates(
        frame.assign(score=np.arange(len(pairs))[::-1] / 7.0, price=range(len(pairs))), further=["price"]
    )


@given(tables())
def test_lists_of_a_table_hold_its_rows(table):
    lists = ItemLists.of(table)
    assert [lists.users[number] for number in lists.list_index] == table["user_id"].tolist()
    assert list(lists.items) == table["item_id"].tolist() and lists.ranks.tolist() == table["rank"].tolist()
    assert (
        lists.scores.tolist() == table["score"].tolist() and lists.further["price"].tolist() == table["price"].tolist()
    )
    assert lists.frame is table and ItemLists.of(lists) is lists and len(lists) == len(table)
    for user, rows in lists.by_user():
        assert rows.tolist() == np.flatnonzero([one == user for one in table["user_id"]]).tolist()


@given(tables(), st.data())
def test_a_part_is_the_lists_of_a_part_of_the_table(table, data):
    rows = np.array(data.draw(st.lists(st.booleans(), min_size=len(table), max_size=len(table))), dtype=np.bool_)
    part, expected = ItemLists.of(table).part(rows), table[rows].reset_index(drop=True)
    assert part.frame[expected.columns].astype(object).values.tolist() == expected.astype(object).values.tolist()
    assert list(part.users) == list(dict.fromkeys(expected["user_id"]))
    if len(expected):
        assert part.list_index.tolist() == ItemLists.of(expected).list_index.tolist()


def test_rows_of_a_list_need_not_stand_together():
    lists = ItemLists.of(
        pd.DataFrame({"user_id": ["u", "v", "u"], "item_id": [1, 1, 2], "score": [3.0, 2.0, 1.0], "rank": [1, 1, 2]})
    )
    assert [(user, rows.tolist()) for user, rows in lists.by_user()] == [("u", [0, 2]), ("v", [1])]


def test_no_row_is_no_list():
    lists = ItemLists.of(pd.DataFrame({"user_id": ["u"], "item_id": [1], "score": [1.0], "rank": [1]}))
    assert list(lists.part(np.array([False])).by_user()) == []
