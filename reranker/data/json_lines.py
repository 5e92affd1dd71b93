"""JSON lines: an object a line, its keys the columns. Values come out as texts, as those of a CSV."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from reranker.data.row_blocks import KEY_TWICE, NO_OBJECT, RejectedLine, RowBlock
from reranker.data.text_blocks import text_blocks
from reranker.errors import DataError


class JsonLinesFile:
    """A file of JSON objects, one a line, by gzip or not.

    A list of texts becomes one text with commas; other lists and objects stay JSON. null, "" and a missing key are
    missing values.

    Args:
        path: of the file.

    Attributes:
        columns: keys of the objects in the first MiB; later ones may add to them.
        quoted: columns in which a text stood, of what was read so far: their ids are texts though they look like
            numbers.

    Raises:
        DataError: no object is among the first lines.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.quoted: set[str] = set()
        found: dict[str, None] = {}
        for line in io.StringIO(next(text_blocks(path), (1, b""))[1].decode(), newline=""):
            found |= dict.fromkeys(_object(line) or ())
        self.columns: tuple[str, ...] = tuple(found)
        if not found:
            raise DataError("no line at its beginning is a JSON object: write one a line, with the columns as keys")

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[RowBlock]:
        """All rows from the first on, a block at a time; every value is a text.

        Args:
            columns: wanted; by default those of the file and whatever keys a block adds.

        Raises:
            DataError: the file cannot be read, with the line.
        """
        row = 0
        for number, block in text_blocks(self._path):
            objects, numbers, rejected = list[dict[str, Any]](), list[int](), list[RejectedLine]()
            lines = io.StringIO(block.decode(), newline="")
            for at, line in enumerate(lines):
                if not line.strip():
                    continue
                if (found := _object(line)) is None or _names_twice(line, found):
                    text, reason = line.rstrip("\r\n"), NO_OBJECT if found is None else KEY_TWICE
                    rejected.append(RejectedLine(number=number + at, row=row, text=text, reason=reason))
                else:
                    objects.append(found)
                    numbers.append(row)
                row += 1
            names = dict.fromkeys(self.columns) if columns is None else dict.fromkeys(columns)
            if columns is None:
                for one in objects:
                    names |= dict.fromkeys(one)
            arrays = [pa.array([self._text(name, one.get(name)) for one in objects], pa.string()) for name in names]
            rows = pa.table(arrays, names=list(names))
            yield RowBlock(rows=rows, numbers=np.array(numbers, dtype=np.int64), rejected=rejected)

    def _text(self, name: str, value: Any) -> str | None:
        if value is None or value == "":
            return None
        if isinstance(value, str):
            self.quoted.add(name)
            return value
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return ", ".join(value)
        return json.dumps(value, ensure_ascii=False)


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and ("\\u" not in line or _is_text(found)) else None


def _names_twice(line: str, found: dict[str, Any]) -> bool:
    """Of two values of one key Python would take the last."""
    if line.count(":") <= len(found):  # no further key, in this object or in one within it
        return False
    keys = json.loads(line, object_pairs_hook=lambda pairs: [key for key, _ in pairs])
    return len(keys) > len(found)


def _is_text(found: dict[str, Any]) -> bool:
    """Escapes can spell halves of characters, which no file can hold."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except (UnicodeError, RecursionError):
        return False
    return True
