"""One part of an offline run: read, sift, rerank, write. The same here and in a worker of a cluster."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from reranker.batch.inputs import InputTable, RowReader
from reranker.batch.partition import Cut
from reranker.batch.row_checks import sift
from reranker.data.schema import ITEM, RANK, RECALL_RANK, RECALL_SCORE, SCORE, SCORE_SCALE, USER, require_ids_like
from reranker.engines import load_engine
from reranker.fusion import Order
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.results import RankingResult
from reranker.rules import Rules
from reranker.types import ItemId, UserId
from reranker.utils.atomic_io import read_json, sha256, whole_file, write_json

logger = logging.getLogger(__name__)

Record = dict[str, Any]
"""What is kept about a finished part: counts, checksums, seconds."""

STATE = "_run"
RANKING = "ranking"


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Which engine scores, and how it is built.

    Attributes:
        name: None takes the bundle's.
        dtype: None takes the bundle's.
        options: further arguments of the engine's class, for instance tensor_parallel_size.
    """

    name: str | None = None
    dtype: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def reranker(self, bundle: Path) -> Reranker:
        """The bundle with this engine; the model is loaded when it is first needed, unless it has options."""
        settings: dict[str, Any] = {} if self.dtype is None else {"dtype": self.dtype}
        reranker = Reranker.load(bundle, engine=self.name, trusted_options=self.options, **settings)
        if not self.options:
            return reranker
        config = reranker.config
        engine = load_engine(
            config.engine, config.model, dtype=config.dtype, needs=config.engine_needs, **config.engine_options
        )
        return Reranker.load(bundle, engine=engine, **settings)


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs to do any part; plain data, so it can travel.

    Attributes:
        bundle: folder of the bundle.
        out: folder of the run; every worker must see it and the inputs under the same path.
        candidates: in the order of their users.
        file_names: what the candidates' files were called by the user.
        cut: the parts.
        interactions: newer histories in the order of their users, or None.
        k: rows kept a user; None keeps all.
        order: insist on this order.
        rules: applied after scoring.
        engines: how rows are scored.
    """

    bundle: Path
    out: Path
    candidates: InputTable
    file_names: Sequence[str]
    cut: Cut
    interactions: InputTable | None = None
    k: int | None = None
    order: Order | None = None
    rules: Rules | None = None
    engines: Engines = field(default_factory=Engines)

    def schema(self) -> pa.Schema:
        """Of every part file."""
        kinds = self.candidates.types
        numbers = [(SCORE, pa.float64()), (RANK, pa.int64()), (RECALL_SCORE, pa.float64()), (RECALL_RANK, pa.int64())]
        return pa.schema([(USER, kinds[USER]), (ITEM, kinds[ITEM]), *numbers, (SCORE_SCALE, pa.string())])


def part_file(out: Path, part: int) -> Path:
    """Where a part's ranking lies."""
    return out / RANKING / f"part-{part:05d}.parquet"


def rejected_file(out: Path, part: int) -> Path:
    """Where a part's rejected rows lie until the run ends; there is no file when there are none."""
    return out / STATE / f"rejected-{part:05d}.parquet"


def record_file(out: Path, part: int) -> Path:
    """Written last: a part that has it is finished."""
    return out / STATE / f"part-{part:05d}.json"


def finished_part(out: Path, part: int) -> Record | None:
    """A part's record if its files are as they were written, else None."""
    record: Record | None = read_json(record_file(out, part))
    if record is None or sha256(part_file(out, part)) != record["sha256"]:
        return None
    return record if sha256(rejected_file(out, part)) == record["rejected_sha256"] else None


class PartWorker:
    """Holds a Reranker and does one part after another.

    Args:
        job: what to do.
        reranker: a loaded one; by default the job's bundle with the job's engine.
    """

    def __init__(self, job: Job, reranker: Reranker | None = None) -> None:
        self._job = job
        self._reranker = reranker or job.engines.reranker(job.bundle)
        self._rows = RowReader(job.candidates)
        self._histories = None if job.interactions is None else pads.dataset(job.interactions.files, format="parquet")

    def run(self, part: int) -> Record:
        """Does a part and writes its ranking, its rejected rows and, last of all, its record."""
        begun, job = time.monotonic(), self._job
        logger.info("part %d: begun", part)
        rows = self._rows.read(*job.cut.bounds(part))
        sifted = sift(rows, job.file_names)
        counts: Record = {"served": None, "users_kept": 0, "unknown_users": 0, "unknown_items": 0}
        ranking, ruled = job.schema().empty_table(), None
        if len(sifted.good):
            ranked = self._rank(sifted.good)
            counts = {name: getattr(ranked.report, name) for name in counts}
            ruled = ranked.rules
            ranking = pa.Table.from_pandas(ranked.to_frame(), schema=job.schema(), preserve_index=False)
        with whole_file(part_file(job.out, part)) as temporary:
            pq.write_table(ranking.replace_schema_metadata(None), temporary)
        rejected_file(job.out, part).unlink(missing_ok=True)
        if len(sifted.rejected):
            with whole_file(rejected_file(job.out, part)) as temporary:
                pq.write_table(sifted.rejected, temporary)
        record: Record = {
            "part": part,
            "rows": len(rows),
            "ranked": len(sifted.good),
            "written": len(ranking),
            "rejected": dict(sorted(sifted.reasons.items())),
            "users": sifted.users,
            "users_without_candidates": sifted.users_without_candidates,
            **counts,
            **({} if ruled is None else {"rules": ruled.to_json()}),
            "sha256": sha256(part_file(job.out, part)),
            "rejected_sha256": sha256(rejected_file(job.out, part)),
            "seconds": round(time.monotonic() - begun, 3),
        }
        write_json(record_file(job.out, part), record)
        return record

    def _rank(self, candidates: pd.DataFrame) -> RankingResult:
        newer = self._newer_histories(candidates[USER])
        if isinstance(newer, dict):  # `rerank` takes it, and looks at no items then
            require_ids_like(self._reranker.item_ids, candidates[ITEM], "candidates")
        with _only_errors(logging.getLogger("reranker.pipeline.reranker")):
            return self._reranker.rerank(
                candidates, self._job.k, interactions=newer, order=self._job.order, rules=self._job.rules
            )

    def _newer_histories(self, users: pd.Series) -> pd.DataFrame | dict[UserId, Sequence[ItemId]] | None:
        """The interactions of these users: only the row groups that can hold them are read.

        {} where there are some, but of other users, and None where there are none at all: `rerank` holds the users'
        ids against the newer histories or against the bundle's, and that must not depend on the cut.
        """
        if self._histories is None or self._job.interactions is None:
            return None
        wanted, user = pa.array(users.drop_duplicates(), self._job.candidates.types[USER]), pads.field(USER)
        here = (user >= users.iloc[0]) & (user <= users.iloc[-1]) & user.isin(wanted)
        columns = list(self._job.interactions.columns)
        found = self._histories.to_table(columns=columns, filter=here, batch_readahead=1, use_threads=False).to_pandas()
        return {} if found.empty else found


@contextmanager
def _only_errors(noisy: logging.Logger) -> Iterator[None]:
    """What `rerank` warns of is counted in the record: a warning a part would bury the progress bar."""
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)
