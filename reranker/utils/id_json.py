"""Ids as JSON and back, exactly: no pickle, and 1, 1.0, True and "1" stay apart.

str, int, bool, finite float and None are JSON values already. Tuples become {"tuple": [...]}, infinite floats
{"float": "inf"}, bytes {"bytes": hex}. Any other type is refused: it could only be read back by running code.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from reranker.errors import BundleError, DataError


def plain_id(value: Any) -> Any:
    """The id without its numpy wrapper: np.int64(3) becomes 3. Everything else is returned as it is."""
    return value.item() if isinstance(value, np.generic) else value


def encode_ids(ids: Iterable[object]) -> list[object]:
    """JSON values for `ids`.

    Raises:
        DataError: an id is of a type that cannot be stored.
    """
    return [_encode(value) for value in ids]


def decode_ids(encoded: Iterable[object]) -> list[Any]:
    """The inverse of `encode_ids`.

    Raises:
        BundleError: a value is not one that `encode_ids` writes.
    """
    return [_decode(value) for value in encoded]


def _encode(value: object) -> object:
    value = plain_id(value)
    # `type` and not isinstance: an IntEnum is an int, but would come back as a plain one.
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float) and type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, tuple) and type(value) is tuple:
        return {"tuple": encode_ids(value)}
    if isinstance(value, bytes) and type(value) is bytes:
        return {"bytes": value.hex()}
    raise DataError(
        f"the id {value!r} is a {type(value).__name__}, which cannot be saved without pickle. Use str, int, float, "
        "bool, bytes or tuples of these as ids, for instance str(id)"
    )


def _decode(value: object) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    try:
        match value:
            case {"tuple": list(parts)}:
                return tuple(decode_ids(parts))
            case {"float": str(text)}:
                return float(text)
            case {"bytes": str(text)}:
                return bytes.fromhex(text)
    except ValueError as error:
        raise BundleError(f"a saved id is damaged: {value!r} ({error})") from error
    raise BundleError(f"a saved id is damaged: {value!r} is not something that ids are stored as")
