"""Text files as blocks of whole lines in UTF-8: gzip, byte order marks and encodings are settled here, once."""

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from reranker.errors import DataError

BLOCK_BYTES = 1 << 20
LONGEST_LINE = 1 << 24
"""Bytes of a line, and of a field in quotes that runs over lines; longer ones are refused or rejected."""

_GZIP = b"\x1f\x8b"
_MARKS_WITHIN = re.compile(rb"((?:^|[\r\n]))(?:\xef\xbb\xbf)+")
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def text_blocks(path: Path, *, maybe_latin_1: bool = False) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, whole lines in UTF-8), one block after another.

    Lines count from 1 and end in LF, CRLF or CR. Text is UTF-8, or UTF-16 that begins with a byte order mark or with an
    ASCII character; gzip is recognised by its bytes. Byte order marks at the beginning of further lines, where files
    were joined, are left out, too: they would be a part of an id.

    Args:
        path: of the file.
        maybe_latin_1: it is ISO 8859-1 where it is not UTF-8.

    Raises:
        DataError: another encoding, a NUL character, an endless line (each with the line), or a damaged gzip file.
        OSError: the file cannot be read.
    """
    encoding = "latin-1" if maybe_latin_1 and not _is_utf_8(path) else None
    number, rest = 1, b""
    for text in _chunks(path, encoding):
        chunk = rest + text
        cut = _end_of_lines(chunk)
        if cut == 0 and len(chunk) > LONGEST_LINE:
            raise DataError(f"line {number}: it is longer than {LONGEST_LINE >> 20} MiB, so this is no table of lines")
        block, rest = chunk[:cut], chunk[cut:]
        if block:
            yield number, _without_marks(checked(block, number))
            number += count_lines(block)
    if rest:
        yield number, _without_marks(checked(rest, number))


def count_lines(block: bytes) -> int:
    """Ends of lines in a block that does not begin or end within a CRLF."""
    return block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")


def checked(block: bytes, number: int) -> bytes:
    """The block, if it is UTF-8 without NUL.

    Raises:
        DataError: it is not, with the line; `number` is that of its first.
    """
    if (at := block.find(b"\0")) >= 0:
        raise DataError(
            f"line {number + count_lines(block[:at])}: it holds a NUL character, so the file is damaged or no text. "
            "Save it as UTF-8"
        )
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError as error:
            line = number + count_lines(block[: error.start])
            raise DataError(
                f"line {line}: byte 0x{block[error.start]:02x} is not UTF-8. If the file is Windows-1252 or Latin-1, "
                "save it as UTF-8, for instance with iconv -f WINDOWS-1252 -t UTF-8"
            ) from error
    return block


def _without_marks(block: bytes) -> bytes:
    return _MARKS_WITHIN.sub(rb"\1", block) if codecs.BOM_UTF8 in block else block


def _end_of_lines(chunk: bytes) -> int:
    """Where the last whole line ends. A CR at the very end may be the half of a CRLF."""
    return max(chunk.rfind(b"\n"), chunk.rfind(b"\r", 0, -1)) + 1


def _chunks(path: Path, encoding: str | None) -> Iterator[bytes]:
    """The text in UTF-8, cut anywhere."""
    with path.open("rb") as raw:
        packed = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
        with cast(BinaryIO, gzip.open(raw)) if packed else raw as file:
            read = 0
            decoder: codecs.IncrementalDecoder | None = None
            try:
                while chunk := file.read(BLOCK_BYTES):
                    if read == 0:
                        mark, found = _encoding(chunk)
                        chunk = chunk[len(mark) :]
                        if (encoding := encoding or found) != "utf-8":
                            decoder = codecs.getincrementaldecoder(encoding)()
                    read += len(chunk)
                    yield chunk if decoder is None else decoder.decode(chunk).encode()
                if decoder is not None:
                    yield decoder.decode(b"", final=True).encode()
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError(f"the gzip file is damaged or cut off behind {read} bytes of text: {error}") from error
            except UnicodeError as error:
                raise DataError(f"it is no whole {encoding} near byte {read}: {error}. Save it as UTF-8") from error


def _encoding(start: bytes) -> tuple[bytes, str]:
    """(byte order mark, encoding) by the first bytes."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return mark, encoding
    if start[1:2] == start[3:4] == b"\0" and 0 not in (start[0], start[2]):
        return b"", "utf-16-le"
    if start[0:1] == start[2:3] == b"\0" and len(start) > 3 and 0 not in (start[1], start[3]):
        return b"", "utf-16-be"
    return b"", "utf-8"


def _is_utf_8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with suppress(UnicodeError):
        for chunk in _chunks(path, "latin-1"):
            decoder.decode(chunk.decode().encode("latin-1"))
        decoder.decode(b"", final=True)
        return True
    return False
