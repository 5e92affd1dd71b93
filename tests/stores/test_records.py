"""Records of users who did much: the newest interactions are read without the rest."""

import numpy as np
import pytest

from reranker.errors import StoreError
from reranker.stores.records import _INTERACTIONS, _part, context_record, interactions_record, read_record, with_context
from reranker.types import UserState

MANY = [(f"i{number}", float(number)) for number in range(1234)]
UNREADABLE = _part(_INTERACTIONS, b"no JSON")  # decoding it fails


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1234])
def test_any_number_comes_back_in_order(count):
    record = interactions_record("u", MANY[:count], 1.0)
    assert list(read_record("u", record).interactions) == MANY[:count]
    for last in (0, 1, 500, 501, 2000):
        assert list(read_record("u", record, last).interactions) == MANY[:count][max(0, count - last) :]


def test_what_stands_before_the_newest_is_not_decoded():
    record = UNREADABLE + interactions_record("u", MANY, 1.0)
    assert list(read_record("u", record, 1000).interactions) == MANY[-1000:]
    with pytest.raises(StoreError, match="'u' is damaged"):
        read_record("u", record)


def test_a_new_context_leaves_the_interactions_undecoded_and_in_parts():
    context = context_record(UserState(user_id="u", vector=np.ones(2, dtype=np.float32), support=3))
    old = context_record(UserState(user_id="u", support=1))
    record = with_context("u", old + UNREADABLE + interactions_record("u", MANY, 7.0), context)
    found = read_record("u", record, 1000)
    assert list(found.interactions) == MANY[-1000:]
    assert (found.support, found.vector.tolist(), found.updated_at) == (3, [1.0, 1.0], 7.0)
    assert with_context("u", record, context) == record  # nothing grows
    with pytest.raises(StoreError, match="'u' is damaged"):
        with_context("u", record[:-1], context)
