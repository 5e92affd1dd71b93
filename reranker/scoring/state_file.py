"""A store's states in a file: read where they lie, by mapping the file into memory."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.scoring.span_cache import Key
from reranker.utils.untrusted import mapped_array, read_npz

_KEYS, _STATES = "keys", "states"
_HASH_BYTES = 16  # of each half of a key
_ROWS = 65_536  # written at a time

Vectors = NDArray[np.floating]
_FORMAT: Any = np.lib.format  # has no types


class StateFile:
    """States by key, sorted by key, half a kilobyte to some kilobytes each; only keys (32 bytes each) are in memory.

    Args:
        keys: (n,) of `S32`, ascending.
        states: (n, dim) float16, of a mapped file.
    """

    def __init__(self, keys: NDArray[np.bytes_], states: Vectors) -> None:
        self._keys = keys
        self._states = states

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def dim(self) -> int:
        """Width of a state."""
        return int(self._states.shape[1])

    def get(self, key: Key) -> Vectors | None:
        """(dim,) state; None where there is none."""
        name = np.bytes_(_name(key).rstrip(b"\0"))  # NumPy takes zeros off the end
        row = int(np.searchsorted(self._keys, name))
        return self._states[row] if row < len(self._keys) and self._keys[row] == name else None

    def pieces(self) -> Iterator[tuple[NDArray[np.bytes_], Vectors]]:
        """Keys and states, some rows at a time."""
        for begin in range(0, len(self._keys), _ROWS):
            yield self._keys[begin : begin + _ROWS], self._states[begin : begin + _ROWS]


def write_states(
    path: Path, old: StateFile | None, new: Mapping[Key, Vectors], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Writes an npz file without pickle and without compression, so that it can be mapped.

    Args:
        path: of the file.
        old: states that are there, perhaps in the file that this one is to replace.
        new: further ones; of one key they stand in for the old.
        arrays: further arrays of the file.
    """
    names = {_name(key): state for key, state in new.items()}
    fresh = np.array(sorted(names), dtype=f"S{2 * _HASH_BYTES}")
    kept = np.zeros(0, dtype=fresh.dtype) if old is None else old._keys[~np.isin(old._keys, fresh)]
    keys = np.sort(np.concatenate([kept, fresh]))
    dim = len(next(iter(names.values()))) if names else 0 if old is None else old._states.shape[1]
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {**arrays, _KEYS: keys.view(np.uint8).reshape(len(keys), 2 * _HASH_BYTES)}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _FORMAT.write_array(member, np.asarray(array), allow_pickle=False)
        with archive.open(f"{_STATES}.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f2", "fortran_order": False, "shape": (len(keys), dim)}
            _FORMAT.write_array_header_2_0(member, header)
            for begin in range(0, len(keys), _ROWS):
                member.write(_rows(keys[begin : begin + _ROWS], old, names, dim).tobytes())


def _rows(
    keys: NDArray[np.bytes_], old: StateFile | None, names: Mapping[bytes, Vectors], dim: int
) -> NDArray[np.float16]:
    rows = np.empty((len(keys), dim), dtype="<f2")
    if old is not None and len(old):
        places = np.minimum(np.searchsorted(old._keys, keys), len(old) - 1)
        rows[:] = old._states[places]  # rows of other keys are overwritten
    for row, key in enumerate(keys.tolist()):
        padded = key.ljust(2 * _HASH_BYTES, b"\0")  # NumPy takes zeros off the end
        if padded in names:
            rows[row] = names[padded]
    return rows


def read_states(path: Path) -> tuple[StateFile, dict[str, NDArray[Any]]]:
    """What `write_states` wrote: the states, mapped, and the further arrays.

    Raises:
        BundleError: the file is damaged.
        OSError: it cannot be read.
    """
    arrays = read_npz(path, without=(_STATES,))
    states = mapped_array(path, _STATES, np.dtype("<f2"))
    keys = arrays.pop(_KEYS)
    if states.ndim != 2 or keys.shape != (len(states), 2 * _HASH_BYTES) or keys.dtype != np.uint8:
        raise ValueError(f"{path}: {keys.shape} keys do not fit {states.shape} states")
    return StateFile(np.ascontiguousarray(keys).view(f"S{2 * _HASH_BYTES}").reshape(-1), states), arrays


def _name(key: Key) -> bytes:
    return bytes.fromhex(key[0]) + bytes.fromhex(key[1])
