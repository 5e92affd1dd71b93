"""Tensors in files: the same content is the same bytes."""

import numpy as np

from reranker.utils.safetensors_io import read_tensors, write_tensors


def test_what_is_written_twice_is_the_same_and_is_read_as_it_was(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(1, dtype=np.float32)}
    notes = {f"note {number}": f"käse {number}" for number in range(20)}
    for name in ("one", "two"):
        write_tensors(tmp_path / name, tensors, notes if name == "one" else dict(reversed(notes.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found, said = read_tensors(tmp_path / "two", ["a", "b"], "test")
    assert said == notes and all((found[name] == tensors[name]).all() for name in tensors)
