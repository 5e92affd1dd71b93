"""What was ranked, for whom and in which order: parquet files to replay rankings and to judge shadow mode.

One row for each candidate of each answered ranking:

    request_id    as in the access log and the `x-request-id` header
    time          when the ranking was done, UTC
    domain        whose bundle ranked it
    user_id       as text, or a pseudonym with `score_log_key`; null where the request named no user, or with
                  `score_log_users: false`
    kind          "items" or "texts"
    item_id       as text; for texts, which are not kept, the position in the request
    position      from 0, in the request's list: `index` of the answer
    first_stage_rank   from 1: by the first-stage scores, else by position
    first_stage_score  as given; null without
    rank          from 1, in the order that `served` names
    score         log-odds; reciprocal ranks where `served` is "first_stage" or "interleaved"
    shown         whether the caller got this candidate (`top_n` cuts the answer)
    served        "fused", "baseline", "first_stage" or "interleaved"; of texts what read them: "lexical", "encoder"
                  or "llm"
    place         from 1, where the caller got it: `rank`, unless the server explored or answered in shadow; null where
                  it was not shown
    propensity    chance of this item to stand at this place; 1 where the server did not explore; null of an interleaved
                  list
    arm           of the experiment; null without
    team          the arm that put the item into a list of two orders; null where they were not interleaved
    shadow        True: the caller got the order of `position`; `rank` is what would have been served
    bundle        fingerprint of the bundle that ranked it (`reranker.pipeline.manifest`); null where it was never saved
    bundle_fitted when that was fitted or refreshed, UTC; null where it does not say so
"""

import contextlib
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from reranker.errors import ConfigError, StoreError
from reranker.pipeline.manifest import BundleIdentity
from reranker.serve.exploration import Shown
from reranker.serve.rank_jobs import Ranked, first_stage_ranks
from reranker.utils.atomic_io import whole_file
from reranker.utils.pseudonyms import Pseudonyms

logger = logging.getLogger(__name__)

_LOCK = ".scores.lock"
_HALF_WRITTEN = ".scores-*.tmp"
_LOCK_SECONDS = 60.0  # that a server waits for another one with the same folder

SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("domain", pa.string()),
        ("user_id", pa.string()),
        ("kind", pa.string()),
        ("item_id", pa.string()),
        ("position", pa.int32()),
        ("first_stage_rank", pa.int32()),
        ("first_stage_score", pa.float64()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("shown", pa.bool_()),
        ("served", pa.string()),
        ("shadow", pa.bool_()),
        ("place", pa.int32()),
        ("propensity", pa.float64()),
        ("arm", pa.string()),
        ("team", pa.string()),
        ("bundle", pa.string()),
        ("bundle_fitted", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One answered ranking.

    Attributes:
        request_id: of the request.
        domain: whose bundle ranked it.
        user: whom it was for, or None.
        items: ids in the order of the request; None for texts.
        first_stage_scores: in the order of the request, or None.
        ranked: what the engine's thread gave.
        top_n: results that the caller got; None for all.
        shadow: the caller got the order that came in.
        exploration: what the caller got in place of the ranking, or None.
        arm: of the experiment that the user is in.
        teams: by rank, the arm that put each item into an interleaved list; None of other lists.
        bundle: that ranked it, or None.
        seconds: since 1970, when it was ranked.
    """

    request_id: str
    domain: str
    user: object | None
    items: Sequence[object] | None
    first_stage_scores: Sequence[float] | None
    ranked: Ranked
    top_n: int | None
    shadow: bool
    exploration: Shown | None = None
    arm: str | None = None
    teams: Sequence[str] | None = None
    bundle: BundleIdentity | None = None
    seconds: float = field(default_factory=time.time)


class ScoreLog:
    """Appends rankings to a folder, a parquet file at a time, in a thread of its own.

    A file appears whole or not at all. What was not written yet is lost when the process is killed: at most what came
    in the last `seconds`, and at most about `rows` rows when the disk keeps up. `close` writes the rest. Servers that
    share a folder write in turns, so that what another one left half written is known to be a killed one's.

    Args:
        folder: made when it does not exist; several servers may share it.
        rows: a file is written when this many wait.
        seconds: and at least this often, when any wait.
        most_rows: that are kept while the disk refuses; beyond, the oldest are dropped and counted.
        observe: called with "written" or "lost" and a number of rows.
        pseudonyms: stand in for users' ids; users are found and forgotten under both. By default ids are written.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: int = 50_000,
        seconds: float = 60.0,
        most_rows: int = 1_000_000,
        observe: Callable[[str, int], None] = lambda outcome, rows: None,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self.folder = folder
        self._pseudonyms = pseudonyms
        self.observe = observe
        self._rows = rows
        self._seconds = seconds
        self._most_rows = max(rows, most_rows)
        self._entries: list[Entry] = []
        self._waiting = 0
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._forgetting = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigError(f"cannot write the score log to {folder}: {error}. Give --score-log a folder") from error

    def start(self) -> None:
        """Begins to write in the background."""
        self._thread = threading.Thread(target=self._run, name="reranker-score-log", daemon=True)
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """Takes a ranking; does not wait for the disk."""
        if self._closed:
            self.observe("lost", len(entry.ranked.order))
            return
        with self._lock:
            self._entries.append(entry)
            self._waiting += len(entry.ranked.order)
            full = self._waiting >= self._rows
        if full:
            self._wake.set()

    def rows_of(self, users: Collection[str]) -> int:
        """Rows that name one of these users, in the files and waiting.

        Raises:
            StoreError: a file cannot be read.
        """
        with self._lock:
            waiting = sum(len(one.ranked.order) for one in self._entries if _user_of(one) in users)
        with self._explained():
            names = self._names(users)
            return waiting + sum(len(named) - len(_others(named, names)) for _, named in self._columns())

    def read(self, users: Collection[str]) -> list[dict[str, Any]]:
        """The rows that name one of these users, in the files and waiting, as values of Python; oldest first.

        Raises:
            StoreError: a file cannot be read.
        """
        with self._lock:
            waiting = [one for one in self._entries if _user_of(one) in users]
        with self._explained():
            rows = rows_that_name(self.folder, self._names(users))
        return rows + (table_of(waiting, self._pseudonyms).to_pylist() if waiting else [])

    def _names(self, users: Collection[str]) -> set[str]:
        """What files may call these users."""
        return set(users) if self._pseudonyms is None else self._pseudonyms.names(users)

    def forget(self, users: Collection[str]) -> int:
        """Takes the rows of these users out, of the files and of what waits; returns how many there were.

        Each file with such rows is written anew and put in the old one's place; one that holds nothing else is removed.
        What a killed server left half written goes, too. Rankings that are answered later are logged.

        Raises:
            StoreError: a file cannot be read or replaced: call it again.
        """
        with self._writing, self._lock:  # what was being written is in a file now
            before = self._waiting
            self._entries = [one for one in self._entries if _user_of(one) not in users]
            self._waiting = sum(len(one.ranked.order) for one in self._entries)
            gone = before - self._waiting
        with self._forgetting, self._explained(), self._alone():
            self._remove_half_written()  # they name users, too
            for path, named in self._columns():
                kept = _others(named, self._names(users))
                if len(kept) < len(named):
                    _replace(path, pq.read_table(path).take(kept))
                    gone += len(named) - len(kept)
        return gone

    def close(self) -> None:
        """Writes what waits and ends."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if not self.flush():
            logger.error("the score log loses %d rows: they could not be written", self._waiting)
            self.observe("lost", self._waiting)

    def flush(self) -> bool:
        """Writes what waits; False when the disk refused, and then it waits on."""
        with self._writing:
            with self._lock:
                entries, self._entries, rows, self._waiting = self._entries, [], self._waiting, 0
            if not entries:
                return True
            try:
                self._write(entries)
            except (OSError, Timeout, pa.ArrowException) as error:
                logger.error("cannot write %d rows to the score log: %s", rows, error)
                self._put_back(entries)
                return False
            self.observe("written", rows)
            return True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, Timeout, pa.ArrowException) as error:
            raise StoreError(f"the score log in {self.folder} cannot be read or written: {error}") from error

    def _columns(self) -> Iterator[tuple[Path, pa.ChunkedArray]]:
        """Each file and whom its rows name."""
        for path in sorted(self.folder.glob("scores-*.parquet")):
            yield path, pq.read_table(path, columns=["user_id"])["user_id"]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other server writes into the folder meanwhile; a killed one's lock is free."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / _LOCK, timeout=_LOCK_SECONDS, thread_local=False):
            yield

    def _remove_half_written(self) -> None:
        """To be called within `_alone`: whoever began these files is no more."""
        for path in self.folder.glob(_HALF_WRITTEN):
            path.unlink(missing_ok=True)

    def _run(self) -> None:
        try:
            with self._alone():
                self._remove_half_written()
        except (OSError, Timeout) as error:
            logger.error("what a killed server left half written in the score log could not be removed: %s", error)
        while not self._closed:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if not self._closed and not self.flush():
                time.sleep(min(1.0, self._seconds))

    def _put_back(self, entries: list[Entry]) -> None:
        with self._lock:
            self._entries = entries + self._entries
            self._waiting = sum(len(entry.ranked.order) for entry in self._entries)
            lost = 0
            while self._waiting > self._most_rows:
                lost += len(self._entries[0].ranked.order)
                self._waiting -= len(self._entries.pop(0).ranked.order)
        if lost:
            logger.error("the score log dropped %d rows: more than %d wait for the disk", lost, self._most_rows)
            self.observe("lost", lost)

    def _write(self, entries: Sequence[Entry]) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(entries[0].seconds))
        with self._alone():
            _replace(
                self.folder / f"scores-{stamp}-{uuid.uuid4().hex[:12]}.parquet", table_of(entries, self._pseudonyms)
            )


def rows_that_name(folder: Path, names: Collection[str]) -> list[dict[str, Any]]:
    """The rows of a score log that call their user one of these names, as values of Python; files by their age.

    Raises:
        OSError, ArrowException: a file cannot be read.
    """
    wanted = pa.array(sorted(names), pa.string())
    tables = (pq.read_table(path) for path in sorted(folder.glob("scores-*.parquet")))
    return [row for one in tables for row in one.filter(pc.is_in(one["user_id"], value_set=wanted)).to_pylist()]


def _replace(target: Path, table: pa.Table) -> None:
    """Puts the table in the place of what may stand there, in one step; an empty one removes it."""
    if not len(table):
        target.unlink()
        return
    with whole_file(target) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _user_of(entry: Entry) -> str | None:
    return None if entry.user is None else str(entry.user)


def _others(named: pa.ChunkedArray, users: Collection[str]) -> pa.Array:
    """Rows that name none of these users."""
    theirs = pc.is_in(named, value_set=pa.array(sorted(users), pa.string()))
    return pa.array(np.flatnonzero(~theirs.to_numpy()))


def table_of(entries: Sequence[Entry], pseudonyms: Pseudonyms | None = None) -> pa.Table:
    """The rows of these rankings, those of one in the order of `rank`."""
    return pa.concat_tables(_table(entry, pseudonyms) for entry in entries)


def _table(entry: Entry, pseudonyms: Pseudonyms | None) -> pa.Table:
    user = _user_of(entry)
    if user is not None and pseudonyms is not None:
        user = pseudonyms.of(user)
    order = np.asarray(entry.ranked.order, dtype=np.int64)
    n = len(order)
    listed = n if entry.items is None else len(entry.items)  # rules may exclude some
    shown, propensities = order if entry.shadow else np.arange(n), np.ones(n)
    if entry.exploration is not None:
        shown = np.empty(n, dtype=np.int64)
        shown[entry.exploration.ranks] = np.arange(n)  # by rank: at which place it is shown
        propensities = entry.exploration.propensities[shown]
    seen = shown < (n if entry.top_n is None else entry.top_n)
    given = None if entry.first_stage_scores is None else np.asarray(entry.first_stage_scores, dtype=np.float64)
    columns: dict[str, Any] = {
        "request_id": [entry.request_id] * n,
        "time": [round(entry.seconds * 1e6)] * n,
        "domain": [entry.domain] * n,
        "user_id": [user] * n,
        "kind": ["texts" if entry.items is None else "items"] * n,
        "item_id": [str(at) if entry.items is None else str(entry.items[at]) for at in order.tolist()],
        "position": order,
        "first_stage_rank": first_stage_ranks(entry.first_stage_scores, listed)[order],
        "first_stage_score": [None] * n if given is None else given[order],
        "rank": np.arange(1, n + 1),
        "score": entry.ranked.scores,
        "shown": seen,
        "served": [entry.ranked.served] * n,
        "shadow": [entry.shadow] * n,
        "place": pa.array(shown + 1, mask=~seen, type=pa.int32()),
        "propensity": propensities if entry.teams is None else [None] * n,
        "arm": [entry.arm] * n,
        "team": [None] * n if entry.teams is None else list(entry.teams),
        "bundle": [None if entry.bundle is None else entry.bundle.fingerprint] * n,
        "bundle_fitted": [None if entry.bundle is None else entry.bundle.fitted] * n,
    }
    return pa.table([pa.array(columns[one.name], type=one.type) for one in SCHEMA], schema=SCHEMA)
