"""Ids survive JSON exactly, types included."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.errors import BundleError, DataError
from reranker.utils.id_json import decode_ids, encode_ids

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
ids = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple))


@given(st.lists(ids))
def test_round_trip_through_strict_json(values: list[object]) -> None:
    text = json.dumps(encode_ids(values), allow_nan=False)
    assert repr(decode_ids(json.loads(text))) == repr(values)


def test_numpy_scalars_become_python_ones() -> None:
    decoded = decode_ids(encode_ids([np.int32(3), np.str_("a"), np.float64(1.0), np.bool_(True), (np.int64(2),)]))
    assert [(type(value), value) for value in decoded] == [
        (int, 3),
        (str, "a"),
        (float, 1.0),
        (bool, True),
        (tuple, (2,)),
    ]


def test_infinity_and_negative_zero() -> None:
    minus_infinity, zero = decode_ids(encode_ids([-math.inf, -0.0]))
    assert minus_infinity == -math.inf
    assert math.copysign(1, zero) == -1


def test_other_types_are_refused() -> None:
    with pytest.raises(DataError, match="frozenset"):
        encode_ids([("a", frozenset())])


@pytest.mark.parametrize("damaged", [[1], {"tuple": 3}, {"float": "one"}, {"bytes": "zz"}, {}])
def test_damaged_ids_are_refused(damaged: object) -> None:
    with pytest.raises(BundleError, match="damaged"):
        decode_ids([damaged])
