import zipfile
from pathlib import Path

import numpy as np
import pytest

from reranker.errors import BundleError
from reranker.scoring.state_file import read_states, write_states

SPACES = {"layer": np.array(18), "centre": np.arange(4.0)}


def key(number: int) -> tuple[str, str]:
    """Some end in zeros, which NumPy's bytes leave away."""
    return f"{number % 3:032x}", f"{number << 100:032x}"


def state(number: int) -> np.ndarray:
    return np.full(6, number, dtype=np.float16)


def test_states_come_back_mapped(tmp_path: Path) -> None:
    path = tmp_path / "states.npz"
    write_states(path, None, {key(number): state(number) for number in range(300)}, SPACES)
    found, arrays = read_states(path)
    assert len(found) == 300
    assert arrays.keys() == SPACES.keys()
    for number in range(300):
        mine = found.get(key(number))
        assert isinstance(mine, np.memmap)
        np.testing.assert_array_equal(mine, state(number))
    assert found.get(key(300)) is None and found.get(("f" * 32, "f" * 32)) is None


def test_new_states_join_and_replace_the_old(tmp_path: Path) -> None:
    path = tmp_path / "states.npz"
    write_states(path, None, {key(number): state(number) for number in range(50)}, {})
    old, _ = read_states(path)
    write_states(tmp_path / "next.npz", old, {key(7): state(1007), key(60): state(60)}, {})
    (tmp_path / "next.npz").replace(path)
    found, _ = read_states(path)
    assert len(found) == 51
    expected = {number: number for number in [*range(50), 60]} | {7: 1007}
    for number, value in expected.items():
        np.testing.assert_array_equal(found.get(key(number)), state(value))
    np.testing.assert_array_equal(old.get(key(7)), state(7))  # still what the replaced file held


def test_no_states(tmp_path: Path) -> None:
    write_states(tmp_path / "states.npz", None, {}, SPACES)
    found, arrays = read_states(tmp_path / "states.npz")
    assert len(found) == 0 and found.get(key(1)) is None
    write_states(tmp_path / "again.npz", found, {key(1): state(1)}, arrays)
    np.testing.assert_array_equal(read_states(tmp_path / "again.npz")[0].get(key(1)), state(1))


@pytest.mark.parametrize("damage", ["compressed", "not finite", "cut", "another type", "no states"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    path, states = tmp_path / "states.npz", np.ones((1, 6), dtype=np.float16)
    keys = np.zeros((1, 32), dtype=np.uint8)
    if damage == "compressed":
        np.savez_compressed(path, keys=keys, states=states)
    elif damage == "not finite":
        np.savez(path, keys=keys, states=states * np.inf)
    elif damage == "another type":
        np.savez(path, keys=keys, states=states.astype(np.float32))
    elif damage == "no states":
        np.savez(path, keys=keys)
    else:
        np.savez(path, keys=keys, states=states)
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BundleError, match="damaged"):
        read_states(path)


def test_the_file_is_a_plain_npz(tmp_path: Path) -> None:
    write_states(tmp_path / "states.npz", None, {key(1): state(1)}, SPACES)
    with zipfile.ZipFile(tmp_path / "states.npz") as archive:
        assert archive.testzip() is None
    with np.load(tmp_path / "states.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["states"], state(1)[None])
