"""A few named float arrays in one safetensors file, with notes; written whole or not at all.

safetensors' own writers let nobody but the owner read a file, and a bundle is often served by another user.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from reranker.errors import PromptError
from reranker.types import ModelInfo
from reranker.utils.atomic_io import whole_file


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> None:
    """Raises OSError when the disk refuses."""
    with whole_file(path) as temporary:
        temporary.write_bytes(_with_sorted_notes(save(dict(tensors), metadata=dict(notes))))


def _with_sorted_notes(file: bytes) -> bytes:
    """The same content, always by the same bytes: safetensors writes notes in an order that changes from call to call.

    A file is the length of its header in 8 bytes, the header as JSON padded to a multiple of 8, and the arrays.
    """
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[end:]


def let_others_read(directory: Path) -> None:
    """The safetensors files that a library wrote into `directory`."""
    for file in directory.glob("*.safetensors"):
        file.chmod(0o644)


def read_tensors(path: Path, names: Sequence[str], what: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays called `names`, and the notes.

    Args:
        path: what `write_tensors` wrote.
        names: of the arrays.
        what: the file should be, for the error message.

    Raises:
        PromptError: the file is missing, damaged or something else.
    """
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in names}
            if wrong := [name for name, one in tensors.items() if not np.isfinite(one).all()]:
                raise ValueError(f"{', '.join(wrong)}: a value that is not finite")
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise PromptError(f"{path} is no {what} ({error}): missing or damaged, save it again") from error


def as_float32(path: Path, name: str) -> NDArray[np.float32]:
    """One array of a safetensors file in float32; it may stand there in bfloat16, which NumPy does not know.

    Raises:
        OSError, SafetensorError, TypeError, ValueError: the file is missing or damaged.
        KeyError: it has no such array.
    """
    deserialize: Any = safetensors.deserialize  # without types
    stored = dict(deserialize(path.read_bytes()))[name]
    if stored["dtype"] == "BF16":
        halves = np.frombuffer(stored["data"], dtype="<u2")
        return (halves.astype("<u4") << 16).view("<f4").reshape(stored["shape"]).astype(np.float32)
    with safe_open(path, framework="np") as file:
        found: NDArray[np.float32] = file.get_tensor(name).astype(np.float32)
        return found


def require_base_model(what: str, width: int, model_id: str, sha256: str, model: ModelInfo) -> None:
    """Refuses parameters that were trained over another model.

    Args:
        what: was trained, for the error message.
        width: of the vectors it makes.
        model_id: the model it was trained over; "" when not known.
        sha256: hash of that model's weights; "" when not known.
        model: the one in use.

    Raises:
        PromptError: width or weights differ.
    """
    other = bool(sha256 and model.sha256 and sha256 != model.sha256)
    if width != model.dim or other:
        raise PromptError(
            f"the {what} was made for {model_id or 'a model'!r} of width {width} ({sha256[:12]}), the model is "
            f"{model.model_id!r} of width {model.dim} ({model.sha256[:12]}). Train one for this model"
        )
