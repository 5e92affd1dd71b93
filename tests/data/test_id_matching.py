"""Ids of which most are not known are an error, which says when they are only written otherwise."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.data.dataset import Dataset
from reranker.data.id_matching import of_known_kind, refuse_written_otherwise, require_most_known
from reranker.errors import DataError


@pytest.mark.parametrize(
    ("known", "given_", "said"),
    [
        (["196", "197"], ["196.0", "197.0"], "'196.0' here is '196' there .*dtype=str"),
        (["196.0"], ["196"], "'196' here is '196.0' there"),
        ([196, 197], ["196", "197"], "'196' here is 196 there .*one is a number, the other a text"),
        (["00196", "00197"], [196, 197], "196 here is '00196' there .*leading zeros were lost"),
        (["0"], ["000"], "leading zeros"),
        (["B00X", "B00Y"], [" b00x", "b00y "], "' b00x' here is 'B00X' there .*spaces"),
    ],
)
def test_ids_that_are_only_written_otherwise_are_explained(known, given_, said):
    with pytest.raises(DataError, match=rf"table 'candidates', column 'item_id': .* rows hold.*{said}"):
        require_most_known(known, pd.Series(given_, name="item_id"), "candidates", "the item table")


def test_half_unknown_is_told_and_more_is_refused():
    assert require_most_known(["a"], pd.Series(["a", "a", "x", "y"], name="item_id"), "t", "there") == 2
    with pytest.raises(DataError, match=r"3 of 4 rows .* 'x', 'y', 'z'\. Known are, for instance, 'a'"):
        require_most_known(["a"], pd.Series(["a", "x", "y", "z"], name="item_id"), "t", "there")


def test_a_data_set_of_which_most_interactions_have_no_item_is_refused(caplog):
    items = pd.DataFrame({"item_id": ["0007", "0008"], "title": ["A", "B"]})
    rows = pd.DataFrame({"user_id": ["u"] * 3, "item_id": ["0007", "0007", "x"]})
    Dataset(interactions=rows, items=items).require_shared_items()
    assert "1 of 3 interactions are with items that are not in the item table" in caplog.text
    lost = rows.assign(item_id=["7", "7", "8"])
    with pytest.raises(DataError, match=r"3 of 3 rows .* the item table.*leading zeros were lost"):
        Dataset(interactions=lost, items=items).require_shared_items()


@given(ids=st.lists(st.integers(0, 99), min_size=1), known=st.lists(st.integers(0, 99).map(str), min_size=1))
def test_numbers_become_texts_only_where_some_are_known(ids, known):
    read = of_known_kind(pd.Series(ids, name="item_id"), known, "t").tolist()
    assert read == (list(map(str, ids)) if set(map(str, ids)) & set(known) else ids)


@pytest.mark.parametrize("known", [{2**70: 0, "u1": 1}, [2**70, "u1"], pd.Series([2**70, "u1"], dtype=object)])
def test_known_numbers_beyond_64_bits_are_no_overflow(known):
    refuse_written_otherwise(known, pd.Series(["u1", "u1", "x"], name="user_id"), "candidates")
    assert require_most_known(known, pd.Series(["u1", "u1", "x"], name="user_id"), "t", "there") == 1
    assert require_most_known(known, pd.Series([], name="user_id", dtype=object), "t", "there") == 0
