"""Results on disk: results.parquet, results.json and TREC run files.

results.json (schema version 1)
schema_version  1
rows            {domain, system, protocol, split, candidates, seed, metric, k, value, low, high, n_users}
comparisons     {domain, split, system, versus, metric, mean, low, high, p_holm, p, relative, relative_low,
                 relative_high, n_users, detectable, power_note}
folds           {domain, split, candidates, ordered, n_users, covered, counts}
diagnostics     {domain, split, system, seed, candidates, tied_share, calibration_error, ms_per_user, tokens_per_user,
                 fit_seconds} and whatever the caller adds
settings        what was asked for
exposure        of `reranker evaluate`: {domain, split, system, grouping, k, groups, gini, coverage, miscalibration,
                over_baseline, no_history}
user_groups     of `reranker evaluate`: {domain, split, system, grouping, group, metric, value, gain}
Numbers that do not exist (an interval of a catalogue metric) are null.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reranker.data.schema import ITEM, USER
from reranker.data.table_io import write_table
from reranker.errors import DataError
from reranker.evaluation.diagnostics import calibration, tied_share
from reranker.evaluation.metrics import ranks
from reranker.evaluation.runner import ROW_COLUMNS, Results, Run
from reranker.evaluation.significance import Comparison
from reranker.utils.atomic_io import write_text

SCHEMA_VERSION = 1
COMPARISON_KEYS = ("domain", "system", "versus", "metric", "mean", "low", "high", "p_holm")


def write_results(
    results: Results,
    out: Path,
    diagnostics: Sequence[Mapping[str, object]] = (),
    further: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
) -> dict[str, Any]:
    """Writes results.parquet, results.json, runs/*.run and runs/*.qrels under `out`; returns what went into the JSON.

    Args:
        diagnostics: further records to keep beside the measured ones.
        further: key -> records, kept under keys of their own.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_table(results.rows, out / "results.parquet")
    document = _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "rows": results.rows.astype(object).where(results.rows.notna(), None).to_dict("records"),
            "comparisons": [_comparison(comparison) for comparison in results.comparisons],
            "folds": _folds(results.runs),
            "diagnostics": [*(_diagnostics(run) for run in results.runs), *map(dict, diagnostics)],
            "settings": asdict(results.settings),
            **{key: list(records) for key, records in (further or {}).items()},
        }
    )
    write_text(out / "results.json", json.dumps(document, indent=1, allow_nan=False))
    for run in results.runs:
        write_trec(run, out / "runs")
    return dict(document)


def read_results(path: Path) -> dict[str, Any]:
    """The document that `write_results` wrote.

    Raises:
        DataError: no such file, not JSON, of another schema version, or without rows and comparisons.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read results from {path}: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        age = "a newer" if isinstance(version, int) and version > SCHEMA_VERSION else "an older"
        raise DataError(
            f"{path} was written by {age} version (schema {version!r}; this one reads {SCHEMA_VERSION}): run the "
            "evaluation again with the same --out; finished scores are reused"
        )
    for key, needed in (("rows", ROW_COLUMNS), ("comparisons", COMPARISON_KEYS)):
        for number, record in enumerate(document.get(key, [{}])):
            missing = sorted(set(needed) - set(record))
            if missing:
                raise DataError(f"{path}: {key}[{number}] lacks {', '.join(missing)}; run the evaluation again")
    return dict(document)


def write_trec(run: Run, directory: Path) -> Path:
    """A TREC run file and its qrels. Ids are percent-encoded, because the format knows no spaces.

    Ranks and strictly decreasing scores are ours, so trec_eval gives the numbers of the report, ties included.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lists = run.lists
    stem = quote(f"{lists.label('end_to_end').replace('end_to_end', lists.fold.domain)}.{lists.fold.split}", safe="+")
    ranked = ranks(lists, run.scores)
    table = zip(lists.candidates[USER], lists.candidates[ITEM], ranked.tolist(), strict=True)
    lines = [f"{_id(user)} Q0 {_id(item)} {rank} {-rank} {_id(run.system)}\n" for user, item, rank in table]
    path = directory / f"{stem}.{lists.n}.{_id(run.system)}.{run.seed}.run"
    write_text(path, "".join(lines))
    pairs = zip(lists.fold.held_out[USER], lists.fold.held_out[ITEM], strict=True)
    write_text(directory / f"{stem}.qrels", "".join(f"{_id(user)} 0 {_id(item)} 1\n" for user, item in pairs))
    return path


def _comparison(comparison: Comparison) -> dict[str, object]:
    return {**asdict(comparison), "power_note": comparison.power_note}


def _folds(runs: Sequence[Run]) -> list[dict[str, object]]:
    seen: dict[tuple[str, str, int], dict[str, object]] = {}
    for run in runs:
        lists = run.lists
        seen[lists.fold.domain, lists.fold.split, lists.n] = {
            "domain": lists.fold.domain,
            "split": lists.fold.split,
            "candidates": lists.n,
            "ordered": lists.fold.ordered,
            "n_users": len(lists.fold.users),
            "covered": float(lists.covered.mean()),
            "counts": dict(lists.fold.counts),
        }
    return list(seen.values())


def _diagnostics(run: Run) -> dict[str, object]:
    lists = run.lists
    return {
        "domain": lists.fold.domain,
        "split": lists.fold.split,
        "system": run.system,
        "seed": run.seed,
        "candidates": lists.n,
        "tied_share": tied_share(lists, run.scores),
        "calibration_error": calibration(lists, run.scores).error if lists.covered.any() else None,
        "fit_seconds": run.fit_seconds,
        **run.cost,
    }


def _id(value: object) -> str:
    return quote(str(value), safe="-_.~:+") or "%00"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no numpy."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
