"""What texts of a CSV stand for: ids that are numbers only where that loses nothing, and columns of numbers."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_DECIMAL = r"^-?(0|[1-9][0-9]{0,17})\.0+$"
_ENDING = r"\.0+$"
_HEX = "[xX]"
_SPACE = " "
_TRUTHS = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}


class IdKind:
    """The kind of a column of ids, of which blocks are seen one after another.

    Attributes:
        is_whole: every value is a whole number as one writes it ("7", not "007" or "+7").
        is_decimal: every value is a whole number with a decimal point ("196.0"), as pandas writes a column of numbers
            in which some are missing.
        n_seen: values.
        n_spaced: values that begin or end with a space. Where all do, as in lines like `u1, i1`, the spaces are none
            of the ids', and the two above are said of what stands between them.
    """

    def __init__(self) -> None:
        self._is_whole, self._is_decimal = {False: True, True: True}, {False: True, True: True}
        self.n_seen = self.n_spaced = 0
        self._is_literal = self._keeps_spaces = False

    def see(self, values: Any) -> None:
        """Adds texts; null is no value."""
        values = values.drop_null()
        if len(values) == 0:
            return
        self.n_seen += len(values)
        self.n_spaced += pc.sum(pc.or_(pc.starts_with(values, _SPACE), pc.ends_with(values, _SPACE))).as_py()
        self._look(values, False)
        if self.is_spaced:
            self._look(pc.utf8_trim(values, _SPACE), True)

    def keep(self) -> None:
        """Takes all values as the texts that they are, as where JSON says so."""
        self._is_literal = True

    def keep_spaces_of(self, known: Iterable[Hashable]) -> None:
        """Takes the spaces for a part of the ids where ids that are known have some."""
        self._keeps_spaces = self.is_spaced and any(isinstance(one, str) and one != one.strip(_SPACE) for one in known)

    def texts(self, values: Any) -> Any:
        """The texts without a decimal point and without the spaces around them, where all that were seen have one."""
        if self.is_spaced:
            values = pc.utf8_trim(values, _SPACE)
            values = pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)
        return without_point(values) if self.is_decimal else values

    def read(self, values: Any) -> Any:
        """The texts, as int64 where all that were seen are whole numbers."""
        return self.texts(values).cast(self.type)

    @property
    def type(self) -> pa.DataType:
        return pa.int64() if self.is_whole or self.is_decimal else pa.string()

    @property
    def is_whole(self) -> bool:
        return self._is_read and self._is_whole[self.is_spaced]

    @property
    def is_decimal(self) -> bool:
        return self._is_read and self._is_decimal[self.is_spaced]

    @property
    def is_spaced(self) -> bool:
        """Whether " i1" is read as "i1"."""
        return self._is_read and self.n_spaced == self.n_seen and not self._keeps_spaces

    def told(self, column: str) -> list[str]:
        """A sentence each about what is not read as it is written, and about ids that are easily taken for others.

        Args:
            column: name of the column.
        """
        lines = []
        if self.is_spaced:
            lines.append(f"column {column!r}: a space stands beside every value: read without it")
        elif self._is_read and 0 < self.n_spaced < self.n_seen:
            lines.append(
                f"column {column!r}: {self.n_spaced} of {self.n_seen} values begin or end with a space; they are read "
                "as they are written, and so are other ids than those without it"
            )
        if self.is_decimal:
            lines.append(
                f"column {column!r} holds whole numbers with a decimal point (196.0): read as whole numbers (196)"
            )
        return lines

    @property
    def _is_read(self) -> bool:
        return self.n_seen > 0 and not self._is_literal

    def _look(self, values: Any, trimmed: bool) -> None:
        self._is_whole[trimmed] = self._is_whole[trimmed] and _as_whole(values) is not None
        self._is_decimal[trimmed] = self._is_decimal[trimmed] and bool(
            pc.all(pc.match_substring_regex(values, _DECIMAL)).as_py()
        )


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
