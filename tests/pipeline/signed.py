"""Manifests whose checksum is right: what an attacker can write."""

import hashlib
from pathlib import Path
from typing import Any

import yaml

from reranker.pipeline.manifest import seal


def write_signed(path: Path, manifest: dict[str, Any]) -> None:
    """Writes a bundle.yaml with the checksum of what stands in it."""
    path.write_text(yaml.safe_dump(seal(manifest)))


def tampered(bundle: Path, name: str, content: bytes) -> None:
    """Another content for a file, with the right hash in the manifest."""
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(content)
    path = bundle / "bundle.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    write_signed(path, manifest)
