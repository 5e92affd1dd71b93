"""What a run is of: enough to refuse going on with another bundle, other inputs or other settings."""

from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from reranker.batch.inputs import Columns, fingerprints, input_files
from reranker.batch.part import Engines
from reranker.errors import BundleError, DataError
from reranker.rules import Rules
from reranker.utils.atomic_io import read_json, sha256, write_json

FORMAT_VERSION = 2
_MANIFEST = "manifest.json"

Identity = dict[str, Any]
"""bundle, candidates, interactions and settings, as JSON."""

Manifest = dict[str, Any]


def identity(
    *,
    bundle: Path,
    candidates: Path,
    interactions: Path | None,
    columns: Columns,
    part_users: int,
    k: int | None,
    order: str | None,
    rules: Rules | None,
    engines: Engines,
) -> Identity:
    """Everything that can change the ranking. Engine options and the cluster are left out: they only change the speed.

    Raises:
        BundleError: there is no bundle.
        DataError: there is no input.
    """
    manifest = bundle / "bundle.yaml"  # it lists the sha256 of every file of the bundle
    if not manifest.is_file():
        raise BundleError(f"{bundle} is no bundle: it has no {manifest.name}")
    found: Identity = {
        "bundle": sha256(manifest),
        "candidates": fingerprints(input_files(candidates, "candidates"), candidates),
        "interactions": None
        if interactions is None
        else fingerprints(input_files(interactions, "interactions"), interactions),
        "settings": {
            "columns": {name: value for name, value in asdict(columns).items() if name != "further"},  # the bundle's
            "part_users": part_users,
            "k": k,
            "order": order,
            "rules": None if rules is None else rules.model_dump(mode="json", exclude_defaults=True),
            "engine": engines.name,
            "dtype": engines.dtype,
        },
    }
    return found


def differences(before: Identity, now: Identity) -> list[str]:
    """What changed, in words."""
    changes = []
    if before["bundle"] != now["bundle"]:
        changes.append(f"the bundle (sha256 {before['bundle'][:12]}, now {now['bundle'][:12]})")
    for name in ("candidates", "interactions"):
        old = {one["file"]: one for one in before[name] or ()}
        new = {one["file"]: one for one in now[name] or ()}
        changed = sorted(file for file in old.keys() | new.keys() if old.get(file) != new.get(file))
        if changed or (before[name] is None) != (now[name] is None):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            changes.append(f"the {name} ({', '.join(changed[:3])}{more})")
    old_settings, new_settings = before["settings"], now["settings"]
    changes += [
        f"{name} ({old_settings.get(name)!r}, now {value!r})"
        for name, value in new_settings.items()
        if old_settings.get(name) != value
    ]
    return changes


def read_manifest(out: Path) -> Manifest | None:
    """The manifest of the run in `out`; None where there is no run.

    Raises:
        DataError: there is one, but it cannot be read or is of another version.
    """
    path = out / _MANIFEST
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT_VERSION:
        raise DataError(f"{path} is damaged or of another version: start over with --force, or choose another folder")
    return found


def write_manifest(
    out: Path, what: Identity, *, forced: list[list[str]], parts: int | None = None, cut_sha256: str | None = None
) -> Manifest:
    """Writes the manifest of a run that has begun.

    Args:
        out: folder of the run.
        what: what it is of.
        forced: for each forced resumption, what had changed.
        parts: how many parts there are; None before the table was cut.
        cut_sha256: hash of where they begin.
    """
    manifest: Manifest = {
        "format": FORMAT_VERSION,
        "reranker": metadata.version("reranker"),
        "identity": what,
        "forced": forced,
        "cut": {"parts": parts, "sha256": cut_sha256},
        "complete": False,
    }
    write_json(out / _MANIFEST, manifest)
    return manifest


def complete_manifest(out: Path, manifest: Manifest, counts: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Adds the counts and every part's record: the run is over."""
    write_json(out / _MANIFEST, {**manifest, "complete": True, "counts": counts, "parts": records})
