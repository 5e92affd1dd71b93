"""Reading files that come from elsewhere: bounded before anything is allocated, and nothing in them acts."""

import io
import json
import math
import struct
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from reranker.errors import BundleError

MOST_YAML_BYTES = 1 << 20
MOST_YAML_NODES = 20_000
"""Bounds of a settings file: PyYAML takes some 50 microseconds a node, more where lists are nested."""

_LONGEST_NUMBER = 64  # characters of one in YAML; "1:1:1:..." takes time and digits without end
_DEEPEST_YAML = 50
MOST_JSON_BYTES = 1 << 30
SMALL_ARRAYS_BYTES = 64 << 20
"""Arrays of so many bytes are read however well they were compressed."""

MOST_COMPRESSION = 100
"""Above that, arrays may not be this many times larger than the file: ours are some ten times larger at most."""

MOST_MAPPED_BYTES = 64 << 20
"""Of a mapped array that are checked at a time."""

_FORMAT: Any = np.lib.format  # has no types


class _Bounded(yaml.SafeLoader):
    """No aliases, and no more nodes, levels and digits than settings have."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nodes = self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read: they can stand for billions of values")
        self._nodes += 1
        self._level += 1
        if self._nodes > MOST_YAML_NODES or self._level > _DEEPEST_YAML:
            raise yaml.YAMLError(
                f"it holds more than {MOST_YAML_NODES} values, or lists and mappings {_DEEPEST_YAML} within each other"
            )
        node = super().compose_node(parent, index)
        self._level -= 1
        length = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if length > _LONGEST_NUMBER and node is not None and node.tag.endswith((":int", ":float")):
            raise yaml.YAMLError(f"a number of {length} characters is not read")
        return node


def read_yaml(path: Path) -> Any:
    """A small YAML document without aliases, endless numbers and deep nesting.

    Raises:
        BundleError: it is too large, nested too deeply, or no such document.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MOST_YAML_BYTES:
        raise BundleError(f"{path} is damaged: it has {path.stat().st_size} bytes, {MOST_YAML_BYTES} at most are read")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Bounded)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BundleError(f"{path} is damaged: {error}") from error


def read_json(path: Path) -> Any:
    """A JSON document.

    Raises:
        BundleError: it is too large, nested too deeply, or no JSON.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MOST_JSON_BYTES:
        raise BundleError(f"{path} is damaged: it has {path.stat().st_size} bytes, {MOST_JSON_BYTES} at most are read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:  # ValueError: no JSON, no UTF-8, or a number of too many digits
        raise BundleError(f"{path} is damaged: {str(error)[:200]}") from error


def read_npz(path: Path, without: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file, all finite, but for those called as in `without`.

    Raises:
        BundleError: a member claims more than it holds, unpacks to far more than the file, holds objects or a value
            that is not finite, or the file is no npz.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return arrays_of(file, path, without)
    except (BundleError, OSError):
        raise
    except Exception as error:  # zip, zlib and NumPy's header parser raise a dozen kinds of what damaged bytes hold
        raise BundleError(f"{path} is damaged: {error}") from error


def arrays_of(file: BinaryIO, path: Path, without: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """`read_npz` of an open file; `path` is for messages."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > SMALL_ARRAYS_BYTES + MOST_COMPRESSION * size:
            raise BundleError(f"{path} is damaged: its {size} bytes unpack to {total}, which is refused")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise BundleError(f"{path} is damaged: it holds {name!r} twice")
            if name in without:
                continue
            with archive.open(member) as opened:
                arrays[name] = _array(opened, member.file_size, name, path)
    return arrays


def mapped_array(path: Path, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """One array of an npz file, read where it lies when it is looked at; finite.

    Raises:
        BundleError: there is no such array, of that type and uncompressed, or the file is damaged.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as opened:
                version = _FORMAT.read_magic(opened)
                read = _FORMAT.read_array_header_1_0 if version == (1, 0) else _FORMAT.read_array_header_2_0
                shape, fortran, found = read(opened)
                header = opened.tell()
            file.seek(member.header_offset + 26)  # behind the fixed part of the member's own header: two lengths
            begin = file.tell() + 4 + sum(struct.unpack("<HH", file.read(4))) + header
        size = math.prod(int(length) for length in shape) * dtype.itemsize
        if member.compress_type != zipfile.ZIP_STORED or found != dtype or fortran or size != member.file_size - header:
            raise BundleError(f"{path} is damaged: {name!r} is no plain array of {dtype} that holds what it claims")
        if not size:
            return np.zeros(shape, dtype=dtype)
        array = np.memmap(path, dtype=dtype, mode="r", offset=begin, shape=tuple(shape))
    except (BundleError, OSError):
        raise
    except Exception as error:  # as in `read_npz`
        raise BundleError(f"{path} is damaged: {error}") from error
    rows = max(1, MOST_MAPPED_BYTES * len(array) // size)
    for start in range(0, len(array), rows):
        if not np.isfinite(array[start : start + rows]).all():
            raise BundleError(f"{path} is damaged: {name!r} holds a value that is not finite")
    return array


def _array(opened: Any, size: int, name: str, path: Path) -> NDArray[Any]:
    content = io.BytesIO(opened.read(size))
    version = _FORMAT.read_magic(content)
    read = _FORMAT.read_array_header_1_0 if version == (1, 0) else _FORMAT.read_array_header_2_0
    shape, _, dtype = read(content)
    if dtype.hasobject:
        raise BundleError(f"{path} is damaged: {name!r} holds objects, which are not read")
    claimed = dtype.itemsize
    for length in shape:
        claimed *= int(length)
    if claimed != len(content.getbuffer()) - content.tell():
        raise BundleError(f"{path} is damaged: {name!r} claims {claimed} bytes and holds another number")
    content.seek(0)
    array: NDArray[Any] = _FORMAT.read_array(content, allow_pickle=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BundleError(f"{path} is damaged: {name!r} holds a value that is not finite")
    return array


def require_small_parquet(path: Path, rows: int | None = None) -> None:
    """Refuses a parquet file that would unpack to far more than it is; to be called before it is read whole.

    A dictionary page holds a text once, however many rows have it: neither the file's size nor what it says of itself
    tells how much memory its texts take.

    Args:
        path: of the file.
        rows: that it has to have; by default no more than it has bytes.

    Raises:
        BundleError: it has another number of rows, or its texts take more than the file allows.
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    size = path.stat().st_size
    with pq.ParquetFile(path) as file:
        found, schema = file.metadata.num_rows, file.schema_arrow
    if found > size if rows is None else found != rows:
        wanted = f"{size} at most" if rows is None else rows
        raise BundleError(f"{path} is damaged: it has {found} rows, not {wanted}")
    most, total = SMALL_ARRAYS_BYTES + MOST_COMPRESSION * size, 0
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(columns=texts):
            for column in batch.columns:
                lengths = pc.binary_length(column.dictionary)
                total += pc.sum(pc.take(lengths, column.indices)).as_py() or 0
            if total > most:
                raise BundleError(f"{path} is damaged: its {size} bytes hold more than {most} bytes of texts")
