"""bundle.yaml: what a bundle says of itself, sealed, and by what a bundle is told from others of its domain."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reranker.errors import BundleError
from reranker.pipeline.untrusted_bundle import MANIFEST, require_plain
from reranker.pipeline.versions import current_version
from reranker.utils.untrusted import read_yaml

FORMAT_VERSION = 13
_MARK = 12  # hex digits of a fingerprint
_NOT_CONTENT = frozenset({"checksum", "fitted", "reranker"})


@dataclass(frozen=True, kw_only=True)
class BundleIdentity:
    """Which bundle it is, of all that its domain ever had.

    Attributes:
        fingerprint: 12 hex digits of the SHA-256 of its content; a copy has the same, a refreshed one another.
        fitted: when it was fitted or refreshed, UTC; None of a bundle that an earlier version saved.
    """

    fingerprint: str
    fitted: datetime | None = None

    def __str__(self) -> str:
        return self.fingerprint if self.fitted is None else f"{self.fingerprint} (fitted {self.fitted:%Y-%m-%d %H:%M})"


def bundle_identity(directory: Path) -> BundleIdentity:
    """Which bundle stands in a folder; the current one, where it holds versions. Its files are not verified.

    Raises:
        BundleError: no bundle stands there, or its manifest is damaged.
    """
    return identity_of(read_manifest(current_version(directory)))


def identity_of(manifest: Mapping[str, Any]) -> BundleIdentity:
    """The identity that a manifest gives its bundle, by the hashes of its files and by its other fields."""
    content = {name: value for name, value in manifest.items() if name not in _NOT_CONTENT}
    return BundleIdentity(fingerprint=_hash(content)[:_MARK], fitted=fitted_at(manifest))


def fitted_at(manifest: Mapping[str, Any]) -> datetime | None:
    """When the bundle was fitted or refreshed, UTC; None where the manifest does not say so.

    Raises:
        BundleError: it says something else than a time.
    """
    said = manifest.get("fitted")
    if said is None:
        return None
    try:
        time = datetime.fromisoformat(said)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{MANIFEST} is damaged: fitted {said!r} is no time. Save the bundle again") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the checksum of its other fields."""
    others = {name: value for name, value in manifest.items() if name != "checksum"}
    return {**others, "checksum": _hash(others)}


def read_manifest(directory: Path) -> dict[str, Any]:
    """What the bundle in a folder says of itself.

    Raises:
        BundleError: no bundle, another format version, or damaged.
    """
    path = directory / MANIFEST
    require_plain(directory)
    try:
        manifest = read_yaml(path)
    except FileNotFoundError as error:
        raise BundleError(f"{directory} is no bundle: it has no {MANIFEST}") from error
    except OSError as error:
        raise BundleError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise BundleError(
            f"{path} has format {found!r}, this version reads {FORMAT_VERSION}: fit the bundle again with this version"
        )
    if not isinstance(manifest.get("files"), dict):
        raise BundleError(f"{path} is damaged: it does not list the bundle's files")
    if manifest.pop("checksum", None) != _hash(manifest):
        raise BundleError(f"{path} is damaged: it is not what was saved. Save the bundle again")
    return manifest


def _hash(fields: Mapping[str, Any]) -> str:
    """SHA-256 of fields: against damage, not against somebody who writes both."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()
