"""A candidate generator on disk: generator.json names the class, its settings and ids; generator.npz holds the arrays.

The JSON is written last and carries the hash of the arrays, so a half-written or mixed-up pair is noticed on loading.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError
from reranker.utils.atomic_io import whole_file
from reranker.utils.untrusted import read_json, read_npz

HEADER_FILE, ARRAYS_FILE = "generator.json", "generator.npz"
FORMAT_VERSION = 1


def write_stage(directory: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes both files, each through a temporary file and a rename."""
    directory.mkdir(parents=True, exist_ok=True)
    with whole_file(directory / ARRAYS_FILE) as temporary:
        with temporary.open("wb") as file:  # by its name numpy would write another one, which ends in .npz
            np.savez_compressed(file, allow_pickle=False, **dict(arrays))
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    with whole_file(directory / HEADER_FILE) as temporary:
        temporary.write_text(
            json.dumps({"format": FORMAT_VERSION, **header, "arrays_sha256": digest}), encoding="utf-8"
        )


def read_header(directory: Path) -> dict[str, Any]:
    """The JSON part.

    Raises:
        BundleError: it is missing, damaged or of another version.
    """
    path = directory / HEADER_FILE
    try:
        header = read_json(path)
    except FileNotFoundError as error:
        raise BundleError(f"no candidate generator in {directory}: {HEADER_FILE} does not exist") from error
    except OSError as error:
        raise BundleError(f"{path} is damaged: {error}. Fit and save the candidate generator again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT_VERSION:
        raise BundleError(
            f"{path} is not a candidate generator of format {FORMAT_VERSION}. Fit and save it with this version"
        )
    return header


def read_stage(directory: Path, class_name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The header and the arrays of a stage of the class `class_name`.

    Raises:
        BundleError: a file is missing or damaged, the two do not belong together, or the class is another one.
    """
    header = read_header(directory)
    if header.get("class") != class_name:
        raise BundleError(
            f"{directory} holds {header.get('class')}, not {class_name}. candidate_gen.load_generator finds the class"
        )
    path = directory / ARRAYS_FILE
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != header.get("arrays_sha256"):
            raise BundleError(
                f"{path} does not belong to {HEADER_FILE} beside it. Fit and save the candidate generator again"
            )
        return header, read_npz(path)
    except OSError as error:
        raise BundleError(
            f"{path} is missing or damaged: {error}. Fit and save the candidate generator again"
        ) from error
