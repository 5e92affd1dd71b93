import hashlib
import os

import pytest

from reranker.errors import ModelError
from reranker.hub import weights_sha256


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    return directory


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_one_file_has_its_own_hash(model):
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    (model / "adapter_model.safetensors").write_bytes(b"an adapter is not the base model")
    assert weights_sha256(model) == sha256(b"weights")


def test_shards_are_hashed_together_by_name(model):
    (model / "model-2.safetensors").write_bytes(b"two")
    (model / "model-1.safetensors").write_bytes(b"one")
    lines = f"{sha256(b'one')}  model-1.safetensors\n{sha256(b'two')}  model-2.safetensors\n"
    assert weights_sha256(model) == sha256(lines.encode())


def test_a_changed_file_is_hashed_again(model):
    file = model / "model.safetensors"
    file.write_bytes(b"first")
    assert weights_sha256(model) == sha256(b"first")
    file.write_bytes(b"other")  # the same size
    os.utime(file, ns=(0, 123_456_789))
    assert weights_sha256(model) == sha256(b"other")


def test_an_unreadable_note_is_ignored(model, tmp_path):
    (model / "model.safetensors").write_bytes(b"weights")
    weights_sha256(model)
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    for damaged in ("", "[1]", '{"file": 1}'):
        note.write_text(damaged)
        assert weights_sha256(model) == sha256(b"weights")


def test_a_cache_that_cannot_be_written_does_not_matter(model, tmp_path):
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert weights_sha256(model) == sha256(b"weights")


def test_no_weights(model):
    (model / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds no weights"):
        weights_sha256(model)
