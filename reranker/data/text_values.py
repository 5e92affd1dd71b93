"""What texts of a CSV stand for: ids that are numbers only where that loses nothing, and columns of numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_DECIMAL = r"^-?(0|[1-9][0-9]{0,17})\.0+$"
_ENDING = r"\.0+$"
_HEX = "[xX]"
_TRUTHS = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}


class IdKind:
    """The kind of a column of ids, of which blocks are seen one after another.

    Attributes:
        is_whole: every value is a whole number as one writes it ("7", not "007" or "+7").
        is_decimal: every value is a whole number with a decimal point ("196.0"), as pandas writes a column of numbers
            in which some are missing.
    """

    def __init__(self) -> None:
        self.is_whole = self.is_decimal = True
        self._seen = False

    def see(self, values: Any) -> None:
        """Adds texts; null is no value."""
        values = values.drop_null()
        if len(values) == 0:
            return
        self._seen = True
        self.is_whole = self.is_whole and _as_whole(values) is not None
        self.is_decimal = self.is_decimal and bool(pc.all(pc.match_substring_regex(values, _DECIMAL)).as_py())

    def read(self, values: Any) -> Any:
        """The texts, as int64 where all that were seen are whole numbers."""
        if not self._seen or not (self.is_whole or self.is_decimal):
            return values
        return without_point(values).cast(pa.int64()) if self.is_decimal else values.cast(pa.int64())

    @property
    def type(self) -> pa.DataType:
        return pa.int64() if self._seen and (self.is_whole or self.is_decimal) else pa.string()

    @property
    def heals(self) -> bool:
        """Whether "196.0" is read as 196."""
        return self._seen and self.is_decimal


def without_point(values: Any) -> Any:
    """ "196.0" as "196"; other texts stay."""
    return pc.replace_substring_regex(values, _ENDING, "")


def inferred(values: Any) -> pd.Series:
    """A column of texts as integers, floats or truths where every value is one, else as texts.

    Args:
        values: pyarrow strings; null is missing.
    """
    present = values.drop_null()
    if len(present) == 0:
        return pd.Series(np.full(len(values), np.nan))
    if (numbers := _as_numbers(values, present)) is not None:
        return numbers
    words = pc.unique(present).to_pylist() if len(present) == len(values) else []
    if words and all(word in _TRUTHS for word in words):
        return pd.Series(values.to_pandas().map(_TRUTHS).to_numpy(dtype=bool))
    return pd.Series(values.to_pandas())


def _as_numbers(values: Any, present: Any) -> pd.Series | None:
    if bool(pc.any(pc.match_substring_regex(present, _HEX)).as_py()):  # pyarrow takes 0x1F for a number
        return None
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = present.cast(kind)
        except pa.ArrowInvalid:
            continue
        if pa.types.is_floating(kind) and pc.any(pc.is_nan(numbers)).as_py():  # the word "nan" is a text
            return None
        return pd.Series(values.cast(kind).to_pandas())
    spaced = pd.to_numeric(pd.Series(present.to_pandas(), dtype=object), errors="coerce")
    if spaced.isna().any():
        return None
    return pd.Series(pd.to_numeric(pd.Series(values.to_pandas(), dtype=object), errors="coerce"))


def _as_whole(values: Any) -> Any | None:
    try:
        numbers = values.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    return numbers if numbers.cast(values.type).equals(values) else None
