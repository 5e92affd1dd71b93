"""Files of a bundle changed as damage or an attacker may change them: bytes, structure, headers, claims."""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import PurePath
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Mutation = Callable[[bytes, Random], bytes]

_TEXTS = (
    "",
    "\0",
    "x" * 100_000,
    "../../etc/passwd",
    "/etc/passwd",
    "NaN",
    "\ud7ff",
    "1e999",
    "!!python/object:os.system",
)
_NUMBERS = (0, -1, 1 << 31, 1 << 63, 1 << 200, -(1 << 63), 0.5, 1e308, float("nan"), float("inf"), -0.0)


def mutated(name: str, content: bytes, random: Random) -> bytes:
    """Another content for a file of this name."""
    return random.choice([*_BYTES, *_BY_KIND.get(PurePath(name).suffix, ()), *_BY_KIND.get(PurePath(name).suffix, ())])(
        content, random
    )


def flipped(content: bytes, random: Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 8)):
        if changed:
            changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def cut(content: bytes, random: Random) -> bytes:
    """The beginning, or the end."""
    at = random.randint(0, len(content))
    return content[:at] if random.random() < 0.7 else content[at:]


def spliced(content: bytes, random: Random) -> bytes:
    """A piece stands twice, is missing, or is something else."""
    begin = random.randint(0, len(content))
    end = min(len(content), begin + random.randint(0, 64))
    piece = random.choice([b"", 2 * content[begin:end], random.randbytes(16), bytes(64), b"\xff" * 16, b"[" * 5_000])
    return content[:begin] + piece + content[end:]


def other_value(tree: Any, random: Random) -> Any:
    """A JSON value in which one value is another, is missing or stands twice; `tree` is changed in place."""
    places: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        one = stack.pop()
        inner = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, value in inner:
            places.append((one, key))
            stack.append(value)
    if not places or random.random() < 0.03:
        return _value(random)
    one, key = random.choice(places)
    what = random.random()
    if what < 0.15:
        del one[key]
    elif what < 0.3 and isinstance(one, list):
        one.insert(key, one[key])
    elif what < 0.4 and isinstance(one, dict):
        one[random.choice(["x", "", "format", "name", "engine_options"])] = _value(random)
    elif what < 0.5 and isinstance(one[key], str):
        one[key] = one[key][: len(one[key]) // 2] + random.choice(_TEXTS)
    else:
        one[key] = _value(random)
    return tree


def json_values(content: bytes, random: Random) -> bytes:
    """JSON with one to three other values."""
    tree = json.loads(content)
    for _ in range(random.randint(1, 3)):
        tree = other_value(tree, random)
    return json.dumps(tree).encode(errors="replace")


def yaml_values(content: bytes, random: Random) -> bytes:
    """YAML with one to three other values."""
    tree = yaml.safe_load(content)
    for _ in range(random.randint(1, 3)):
        tree = other_value(tree, random)
    return yaml.safe_dump(tree).encode(errors="replace")


def npz_arrays(content: bytes, random: Random) -> bytes:
    """An npz file in which an array has other values, another type or shape, or is missing."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    if not arrays:
        return content
    name = random.choice(sorted(arrays))
    if random.random() < 0.1:
        del arrays[name]
    else:
        arrays[name] = other_array(arrays[name], random)
    out = io.BytesIO()
    (np.savez if random.random() < 0.5 else np.savez_compressed)(out, **arrays)
    return out.getvalue()


def other_array(array: np.ndarray[Any, Any], random: Random) -> np.ndarray[Any, Any]:
    """Other values, another type, or another shape."""
    what = random.randrange(6)
    if what == 0:
        return array.astype(random.choice(["f2", "f8", "i1", "u8", "S4", "U3", "c16", "?", "M8[s]", ">f4", "O"]))
    if what == 1:
        return random.choice(
            [array[:-1], array[None], array.ravel(), array[:0], np.zeros(()), np.concatenate([array] * 2)]
        )
    changed = array.copy()
    if changed.size:
        value = random.choice(_NUMBERS)
        with np.errstate(all="ignore"):
            try:
                changed.flat[random.randrange(changed.size)] = value
            except (OverflowError, ValueError, TypeError):
                changed.flat[:] = changed.flat[0] * -1 if changed.dtype.kind in "if" else changed.flat[0]
    return changed


def npy_headers(content: bytes, random: Random) -> bytes:
    """An npz file one of whose arrays claims another shape or type than it holds, or is far larger unpacked."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        victim = random.choice(names)
        for name in names:
            data = old.read(name)
            if name == victim:
                shape = random.choice([(1 << 43,), (1 << 20, 1 << 20), (0, 1 << 62), (-1,), (3,), (), (1,) * 40])
                header = io.BytesIO()
                kind = random.choice(["<f8", "<f2", "|O", "<i8", "|V9", "<U1000000"])
                np.lib.format.write_array_header_2_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
                data = header.getvalue() + (data[128:] if random.random() < 0.7 else bytes(80 << 20))
            new.writestr(name, data, random.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]))
    return out.getvalue()


def safetensors_header(content: bytes, random: Random) -> bytes:
    """A safetensors file whose header says something else, or claims another length."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if random.random() < 0.25:
        return struct.pack("<Q", random.choice([0, 1, length - 1, 1 << 40, (1 << 64) - 1])) + content[8:]
    text = json.dumps(other_value(header, random)).encode(errors="replace")
    return struct.pack("<Q", len(text)) + text + data


def safetensors_values(content: bytes, random: Random) -> bytes:
    """A safetensors file one of whose arrays has other values, another type or shape, or is missing."""
    from safetensors.numpy import load, save

    (length,) = struct.unpack("<Q", content[:8])
    notes = json.loads(content[8 : 8 + length]).get("__metadata__")
    arrays = load(content)
    name = random.choice(sorted(arrays))
    other = other_array(arrays[name], random)
    if other.dtype.kind in "SUOMc" or other.dtype.byteorder == ">":
        del arrays[name]
    else:
        arrays[name] = np.ascontiguousarray(other)
    return bytes(save(arrays, metadata=notes))


def parquet_columns(content: bytes, random: Random) -> bytes:
    """A parquet file in which a column has other values, another type or name, or there are more or fewer rows."""
    table = pq.read_table(io.BytesIO(content))
    what, n = random.randrange(6), table.num_rows
    if what == 0 and table.num_columns:
        table = table.drop_columns([random.choice(table.column_names)])
    elif what == 1:
        table = random.choice([table.slice(0, max(0, n - 1)), table.slice(0, 0), pa.concat_tables([table] * 3)])
    elif what == 2 and table.num_columns:
        names = list(table.column_names)
        names[random.randrange(len(names))] = random.choice([*_TEXTS[:4], names[0], "item_id"])
        table = table.rename_columns(names)
    else:
        name = random.choice(table.column_names or ["x"])
        column = random.choice(_COLUMNS)(n)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def _value(random: Random) -> Any:
    deep: Any = 0
    for _ in range(random.choice([3, 200, 900])):
        deep = [deep]
    return random.choice(
        [None, True, [], {}, deep, [None], {"": 0}, [[1, 2]], random.choice(_TEXTS), *[random.choice(_NUMBERS)] * 3]
    )


_COLUMNS: Sequence[Callable[[int], pa.Array]] = (
    lambda n: pa.nulls(n),
    lambda n: pa.array([b"\xff\xfe"] * n),
    lambda n: pa.array([[1, 2]] * n, type=pa.list_(pa.int64())),
    lambda n: pa.array([{"a": 1}] * n, type=pa.struct([("a", pa.int64())])),
    lambda n: pa.array([float("nan")] * n),
    lambda n: pa.array([1 << 62] * n, type=pa.timestamp("ns")),
    lambda n: pa.array(["x" * 1000] * n).dictionary_encode(),
    lambda n: pa.array([None if row % 2 else "x" for row in range(n)], type=pa.string()),
    lambda n: pa.array([float("inf") if row % 2 else -1e308 for row in range(n)]),
    lambda n: pa.array([-5] * n),
)
_BYTES: Sequence[Mutation] = (flipped, cut, spliced)
_BY_KIND: dict[str, Sequence[Mutation]] = {
    ".json": (json_values,),
    ".yaml": (yaml_values,),
    ".npz": (npz_arrays, npy_headers),
    ".safetensors": (safetensors_header, safetensors_values),
    ".parquet": (parquet_columns,),
}
