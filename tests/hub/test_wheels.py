"""Downloads: pip is pointed at a local directory through its own environment variables; nothing leaves the machine."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reranker.errors import ModelError
from reranker.hub.wheels import PinnedWheel, fetch_wheel

FILENAME = "tinydata-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A directory that pip takes for its only index, holding one wheel; the cache is a new directory."""
    directory = tmp_path / "index"
    directory.mkdir()
    with zipfile.ZipFile(directory / FILENAME, "w") as wheel:
        wheel.writestr("tinydata/data.txt", "1\t2\n")
        wheel.writestr("tinydata-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n")
        wheel.writestr("tinydata-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tinydata-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RERANKER_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return directory


def pinned(index: Path, sha256: str | None = None) -> PinnedWheel:
    sha256 = sha256 or hashlib.sha256((index / FILENAME).read_bytes()).hexdigest()
    return PinnedWheel(requirement="tinydata==1.0", filename=FILENAME, sha256=sha256)


def everything_in(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.rglob("*") if not file.name.endswith(".lock"))


def test_a_wheel_is_fetched_into_the_cache(index, tmp_path):
    file = fetch_wheel(pinned(index))
    assert file.read_bytes() == (index / FILENAME).read_bytes()
    assert file.is_relative_to(tmp_path / "cache")


def test_a_verified_wheel_is_not_downloaded_again(index):
    wheel = pinned(index)
    first = fetch_wheel(wheel)
    (index / FILENAME).unlink()
    assert fetch_wheel(wheel) == first


def test_offline_uses_the_cache(index, monkeypatch):
    wheel = pinned(index)
    first = fetch_wheel(wheel)
    monkeypatch.setenv("RERANKER_OFFLINE", "1")
    assert fetch_wheel(wheel) == first


@pytest.mark.parametrize("variable", ["RERANKER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_with_an_empty_cache_says_how_to_fill_it(index, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ModelError, match=r"not in the cache .*network is off.*RERANKER_CACHE"):
        fetch_wheel(pinned(index))
    assert not (tmp_path / "cache").exists()


def test_a_wheel_with_another_hash_is_refused_and_removed(index, tmp_path):
    expected = "0" * 64
    found = pinned(index).sha256
    with pytest.raises(ModelError, match=rf"SHA-256 is {found}, expected {expected}"):
        fetch_wheel(pinned(index, expected))
    assert everything_in(tmp_path / "cache") == ["wheels"]


def test_a_wheel_damaged_in_the_cache_is_removed_and_then_fetched_again(index):
    wheel = pinned(index)
    file = fetch_wheel(wheel)
    file.write_bytes(b"half")
    with pytest.raises(ModelError, match=r"removed from the cache"):
        fetch_wheel(wheel)
    assert fetch_wheel(wheel).read_bytes() == (index / FILENAME).read_bytes()


def test_what_pip_says_reaches_the_user(index, tmp_path):
    wheel = pinned(index)
    (index / FILENAME).unlink()
    with pytest.raises(ModelError, match=r"cannot fetch tinydata==1.0: pip ended with 1: .*tinydata"):
        fetch_wheel(wheel)
    assert everything_in(tmp_path / "cache") == ["wheels"]


def test_a_file_in_the_way_of_the_cache_is_our_error(index, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelError, match=r"cannot write .*RERANKER_CACHE"):
        fetch_wheel(pinned(index))


def test_looking_for_pip_leaves_setuptools_alone() -> None:
    # find_spec("pip") would make setuptools' import hook retire its distutils for the whole process.
    program = (
        "import setuptools, sys; from reranker.hub import wheels; wheels._pip_version(); import distutils.core; "
        "print('_distutils' in distutils.core.__file__)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split()[-1] == "True"
