"""An offline run: candidates on disk in, rankings on disk out, part by part, and it survives being killed.

OUT/ranking/part-00000.parquet ...   the rankings
OUT/rejected.parquet                 rows that could not be ranked, each with the reason
OUT/summary.json                     what happened
OUT/manifest.json                    what the run is of; at the end counts and checksums of every part
OUT/_run/                            state: a record of each finished part, copies of inputs that had to be sorted

A part is finished when its record is there, and the record is written last. Each file is written beside its place,
synced and renamed. So whatever is there is whole, and after a kill only parts that had no record yet are done again.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from tqdm import tqdm

from reranker.batch.inputs import Columns, is_input_of
from reranker.batch.known_ids import KnownIds
from reranker.batch.manifest import (
    Identity,
    Manifest,
    complete_manifest,
    differences,
    identity,
    read_manifest,
    write_manifest,
)
from reranker.batch.part import RANKING, STATE, Engines, Job, PartWorker, Record, finished_part, rejected_file
from reranker.batch.prepare import Prepared, drop_copies, malformed_file, prepare
from reranker.batch.row_checks import REJECTED_SCHEMA
from reranker.batch.unused import HistoriesUse
from reranker.data.schema import ITEM, TIMESTAMP
from reranker.errors import ConfigError, DataError
from reranker.fusion import Order
from reranker.pipeline.bundle import read_bundle
from reranker.pipeline.reranker import Reranker
from reranker.rules import Rules, RulesReport
from reranker.utils.atomic_io import read_json, remove_leftovers, whole_file, write_json

Summary = dict[str, Any]

_SUMMARY, _REJECTED, _LOCK = "summary.json", "rejected.parquet", "lock"


@dataclass(frozen=True, kw_only=True)
class OfflineRun:
    """What to rank, how, and where to.

    Attributes:
        bundle: folder that `Reranker.save` wrote.
        candidates, interactions: a table, or a folder of them (parquet, or CSV and TSV). Interactions are newer
            histories than the bundle's and replace them for the users they hold.
        out: folder of the run.
        columns: what the candidates' columns are called; one called `query` is what the user asks for.
        part_users: users a part; memory grows with it, and a kill costs at most one part.
        k: rows kept a user; None keeps all.
        order: insist on this order, whatever the guard decided.
        rules: applied after scoring.
        engines: how rows are scored.
        cluster: None for this process, "ray" for the Ray cluster at hand (or a new one here), or a Ray address.
        workers: of the cluster; None takes one a GPU, or one a node of CPUs.
    """

    bundle: Path
    candidates: Path
    out: Path
    interactions: Path | None = None
    columns: Columns = field(default_factory=Columns)
    part_users: int = 1000
    k: int | None = None
    order: Order | None = None
    rules: Rules | None = None
    engines: Engines = field(default_factory=Engines)
    cluster: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("part_users", "k", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("candidates", "interactions"):
            folder = getattr(self, name)
            if folder is not None and is_input_of(folder, self.out):
                raise ConfigError(
                    f"out: {self.out} lies in the folder of the {name}, {folder}, so its rankings would be read as "
                    f"{name} when the run goes on: choose a folder beside it"
                )

    def run(
        self, *, resume: bool = False, force: bool = False, progress: bool = False, reranker: Reranker | None = None
    ) -> Summary:
        """Ranks everything that has not been ranked yet.

        Args:
            resume: go on with the run in `out`; with none there, begin one.
            force: without `resume`, start over whatever run lies in `out`; with it, keep its finished parts although
                the bundle, the inputs' dates or a setting changed. The manifest says what was forced.
            progress: show users a second and the time left on stderr.
            reranker: a loaded bundle, for a run in this process.

        Returns:
            What is written to summary.json.

        Raises:
            DataError: an input is wrong or changed, or `out` holds something else.
            ConfigError: another process runs in `out`, or an impossible setting.
            BundleError, ModelError, EngineError: the bundle or its engine failed; finished parts are kept.
        """
        begun = time.monotonic()
        what = self._identity()
        _refuse_foreign(self.out)
        (self.out / STATE).mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.out / STATE / _LOCK, timeout=0):
                return self._run(what, resume, force, progress, reranker, begun)
        except Timeout as error:
            raise ConfigError(f"another process runs in {self.out}: wait for it, or choose another folder") from error

    def _run(
        self, what: Identity, resume: bool, force: bool, progress: bool, reranker: Reranker | None, begun: float
    ) -> Summary:
        remove_leftovers(self.out)
        manifest = self._opened(what, resume, force)
        if manifest["complete"] and (summary := _verified_summary(self.out, manifest)) is not None:
            return summary
        known, further = self._known(reranker)
        columns = replace(self.columns, further=further)
        prepared = prepare(self.candidates, self.interactions, columns, self.part_users, self.out, known)
        known.require_most(prepared.candidates, str(self.candidates), of_users=self.interactions is None)
        histories = None
        if prepared.interactions is not None:
            where = str(self.interactions)
            unknown = known.require_most(prepared.interactions, where, of_users=False, what="interactions")
            histories = {
                **HistoriesUse.of(prepared.interactions, prepared.candidates).to_json(),
                "rows_of_unknown_items": unknown.get(ITEM, 0),
                "has_timestamps": TIMESTAMP in prepared.interactions.columns,
                "unused_columns": list(prepared.unused_history_columns),
            }
        manifest = self._with_cut(manifest, what, prepared)
        numbers = range(len(prepared.cut.starts))
        records = {part: record for part in numbers if (record := finished_part(self.out, part)) is not None}
        reused = len(records)
        todo = [part for part in numbers if part not in records]
        with tqdm(
            total=prepared.cut.users,
            initial=sum(record["users"] for record in records.values()),
            unit="user",
            desc="rerank",
            disable=not progress,
        ) as bar:
            for record in self._parts(self._job(prepared), todo, reranker):
                records[record["part"]] = record
                bar.update(record["users"])
        ordered = [records[part] for part in numbers]
        summary = _summary(ordered, prepared) | {
            "parts": len(ordered),
            "parts_reused": reused,
            "seconds": round(time.monotonic() - begun, 3),
            "bundle_sha256": what["bundle"],
            "unused_columns": list(prepared.unused_columns),
            **({} if histories is None else {"interactions": histories}),
        }
        if self.rules is not None:
            reports = [RulesReport.from_json(record["rules"]) for record in ordered if record.get("rules")]
            summary["rules"] = RulesReport.joined(reports).to_json()
        _collect_rejected(self.out, len(ordered))
        write_json(self.out / _SUMMARY, summary)
        complete_manifest(self.out, manifest, summary, ordered)
        drop_copies(self.out)
        return summary

    def _identity(self) -> Identity:
        return identity(
            bundle=self.bundle,
            candidates=self.candidates,
            interactions=self.interactions,
            columns=self.columns,
            part_users=self.part_users,
            k=self.k,
            order=self.order,
            rules=self.rules,
            engines=self.engines,
        )

    def _opened(self, what: Identity, resume: bool, force: bool) -> Manifest:
        """The manifest to go on with."""
        before = read_manifest(self.out) if resume or not force else None
        if before is None:
            _clear(self.out)
            return write_manifest(self.out, what, forced=[])
        if not resume:
            raise DataError(f"{self.out} holds a run: go on with --resume, or start over with --force")
        changes = differences(before["identity"], what)
        if not changes:
            return before
        if not force:
            raise DataError(
                f"{self.out} was begun with something else; changed: {'; '.join(changes)}. Start over with --force, or "
                "keep the finished parts as they are with --resume --force"
            )
        drop_copies(self.out)
        cut = before["cut"]
        return write_manifest(
            self.out, what, forced=[*before["forced"], changes], parts=cut["parts"], cut_sha256=cut["sha256"]
        )

    def _with_cut(self, manifest: Manifest, what: Identity, prepared: Prepared) -> Manifest:
        parts, found = len(prepared.cut.starts), prepared.cut.sha256
        known = manifest["cut"]["sha256"]
        if known not in (None, found):
            raise DataError(
                f"the parts in {self.out} are cut from other rows than these, so they cannot be kept: start over with "
                "--force alone"
            )
        return write_manifest(self.out, what, forced=manifest["forced"], parts=parts, cut_sha256=found)

    def _job(self, prepared: Prepared) -> Job:
        return Job(
            bundle=self.bundle.resolve(),
            out=self.out.resolve(),
            candidates=prepared.candidates.resolved(),
            file_names=prepared.file_names,
            cut=prepared.cut,
            interactions=None if prepared.interactions is None else prepared.interactions.resolved(),
            k=self.k,
            order=self.order,
            rules=self.rules,
            engines=self.engines,
        )

    def _known(self, reranker: Reranker | None) -> tuple[KnownIds, tuple[str, ...]]:
        """The ids of the bundle, and the columns of candidates that it needs."""
        if reranker is not None:
            return KnownIds(users=reranker.user_ids, items=reranker.item_ids), tuple(reranker.candidate_columns)
        state = read_bundle(self.bundle)
        own = state.statistics.own
        further = () if own is None else tuple(own.candidate_columns)
        return KnownIds(users=list(state.statistics.histories), items=list(state.items[ITEM])), further

    def _parts(self, job: Job, parts: list[int], reranker: Reranker | None) -> Iterable[Record]:
        if not parts:
            return ()
        if self.cluster is None:
            return _here(job, parts, reranker)
        from reranker.batch.ray_cluster import run_parts

        return run_parts(job, parts, self.cluster, self.workers)


def _here(job: Job, parts: list[int], reranker: Reranker | None) -> Iterator[Record]:
    worker = PartWorker(job, reranker)
    yield from map(worker.run, parts)


def _refuse_foreign(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / STATE).is_dir()):
        raise DataError(f"{out} exists and is no offline run: choose another folder")


def _clear(out: Path) -> None:
    """Removes what runs write, and nothing else."""
    for name in (_SUMMARY, _REJECTED, "manifest.json"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / RANKING, ignore_errors=True)
    for path in (out / STATE).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _verified_summary(out: Path, manifest: Manifest) -> Summary | None:
    """The summary of a run that is over, if its parts are still as they were written."""
    summary: Summary | None = read_json(out / _SUMMARY)
    records = (finished_part(out, part) for part in range(manifest["cut"]["parts"]))
    intact = (out / _REJECTED).exists() and all(record is not None for record in records)
    return summary if intact else None


def _summary(records: list[Record], prepared: Prepared) -> Summary:
    """Counts over all parts.

    Raises:
        DataError: a row is neither ranked nor rejected.
    """
    rejected: Counter[str] = Counter()
    for record in records:
        rejected.update(record["rejected"])
    rejected.update(prepared.malformed)
    names = ("ranked", "written", "users", "users_without_candidates", "users_kept", "unknown_users", "unknown_items")
    counts = {name: sum(record[name] for record in records) for name in names}
    rows = prepared.candidates.total_rows + prepared.malformed.total()
    if counts["ranked"] + rejected.total() != rows:
        raise DataError(
            f"{rows} rows came in, {counts['ranked']} were ranked and {rejected.total()} rejected: an input changed "
            "while it was read. Start over with --force"
        )
    seconds = sum(record["seconds"] for record in records)
    return {
        "rows": rows,
        **counts,
        "rejected": dict(sorted(rejected.items())),
        "rejected_rows": rejected.total(),
        "served": sorted({record["served"] for record in records} - {None}),
        "part_seconds": round(seconds, 3),
        "users_per_second": round(counts["users"] / seconds, 3) if seconds else None,
    }


def _collect_rejected(out: Path, parts: int) -> None:
    """All rejected rows in one file, part by part."""
    with whole_file(out / _REJECTED) as temporary, pq.ParquetWriter(temporary, REJECTED_SCHEMA) as writer:
        for path in (malformed_file(out), *(rejected_file(out, part) for part in range(parts))):
            if path.exists():
                with pq.ParquetFile(path) as rows:
                    for batch in rows.iter_batches():
                        writer.write_batch(batch)
