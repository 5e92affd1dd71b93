"""Hashes of files and of a model's weights."""

import contextlib
import hashlib
import json
from pathlib import Path

from tqdm import tqdm

from reranker.errors import ModelError
from reranker.hub.cache import cache_dir
from reranker.utils.atomic_io import write_json

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "chat_template*", "*.model")
"""Patterns of the files in a model directory that a tokenizer is made of."""

_SETTINGS_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)

_CHUNK_BYTES = 1 << 22
_SHOW_PROGRESS_FROM_BYTES = 1 << 30


def file_sha256(path: Path) -> str:
    """The file's SHA-256 in hex; a progress bar on stderr from 1 GiB on.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    size = path.stat().st_size
    quiet = size < _SHOW_PROGRESS_FROM_BYTES
    with (
        path.open("rb") as file,
        tqdm(total=size, desc=f"hashing {path.name}", unit="B", unit_scale=True, disable=quiet, leave=False) as bar,
    ):
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def settings_sha256(path: Path) -> str:
    """Hash of all that a model directory says of the model beside its weights: settings, tokenizer, chat template.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted({file for pattern in _SETTINGS_FILES for file in path.glob(pattern) if file.is_file()})
    return hashlib.sha256("\0".join(f"{file.name} {file_sha256(file)}" for file in files).encode()).hexdigest()


def weight_files(path: Path) -> list[Path]:
    """A model directory's weights by name: its safetensors files, else its PyTorch .bin files.

    Raises:
        ModelError: there are none.
    """
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if files := sorted(file for file in path.glob(pattern) if not file.name.startswith("adapter_")):
            return files
    raise ModelError(
        f"the model directory {path} holds no weights: expected *.safetensors. Save the model there with "
        "save_pretrained, or give another path"
    )


def weights_sha256(path: Path | str) -> str:
    """Identifies the weights in a model directory.

    One weights file: its own SHA-256, as `sha256sum` prints it. Several: the SHA-256 of their lines "hash  name",
    sorted by name. A file whose size and time of change are those of the last call is not read again.

    Raises:
        ModelError: the directory holds no weights, or they cannot be read.
    """
    files = weight_files(Path(path))
    try:
        hashes = [_remembered_sha256(file) for file in files]
    except OSError as error:
        raise ModelError(f"cannot read the weights in {path}: {error}") from error
    if len(hashes) == 1:
        return hashes[0]
    lines = "".join(f"{sha256}  {file.name}\n" for sha256, file in zip(hashes, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _remembered_sha256(file: Path) -> str:
    resolved = file.resolve()
    state = resolved.stat()
    key = [str(resolved), state.st_size, state.st_mtime_ns]
    note = cache_dir() / "hashes" / f"{hashlib.sha256(str(resolved).encode()).hexdigest()[:32]}.json"
    try:
        remembered = json.loads(note.read_text(encoding="utf-8"))
        if remembered["file"] == key:
            return str(remembered["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no note, or one that cannot be read: hash the file
    sha256 = file_sha256(resolved)
    with contextlib.suppress(OSError):  # a read-only cache only costs the next call the time to hash again
        write_json(note, {"file": key, "sha256": sha256})
    return sha256
