"""What an offline run costs and what it survives: `python -m eval.offline --out DIR`.

Random lists and a scripted engine, so that nothing but the run itself is measured. Writes DIR/offline.json and exits 0
when it ran, whatever passed. The full setting takes about fifteen minutes on two cores.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from candidate_gen import PopularityGenerator
from eval.checks import Check, machine, report
from reranker import Dataset, Reranker, RerankerConfig
from reranker.batch import OfflineRun
from reranker.prompting import PromptSettings

LIST_LENGTH, HISTORY_LENGTH, ITEMS = 50, 10, 1000
REPEATS = 5
PROGRAM = """
import sys
from reranker.cli import main
try:
    main()
finally:
    print(open("/proc/self/status").read(), file=sys.stderr)
"""


@dataclass(frozen=True, kw_only=True)
class Child:
    """A finished or killed `reranker rerank` in a process of its own.

    Attributes:
        seconds: wall clock, start of Python included.
        cpu_seconds: user and system time.
        peak_mib: largest resident set (VmHWM; ru_maxrss would begin with that of this process); NaN if killed.
        begun: parts that were begun.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    begun: int


def main(
    out: Annotated[Path, typer.Option(help="folder for offline.json and the runs")] = Path("out/offline"),
    rows: Annotated[
        int, typer.Option(min=10_000, help="rows of the small run; the large one has ten times as many")
    ] = (100_000),
) -> None:
    """Measures memory, linearity, overhead and resumption; prints and writes the checks."""
    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _write_bundle(work / "bundle")
    small, large = rows // LIST_LENGTH, 10 * rows // LIST_LENGTH
    for name, users in (("start", ITEMS // LIST_LENGTH), ("small", small), ("large", large)):
        _write_tables(work, name, users)
    checks = [*_growth(work), *_unsorted(work), *_resumption(work, part_users=max(1, small // 20)), _overhead(work)]
    environment = machine(("reranker", "numpy", "pandas", "pyarrow"), engine="scripted", rows=[rows, 10 * rows])
    report(checks, out / "offline.json", environment, typer.echo)
    shutil.rmtree(work)


def _growth(work: Path) -> list[Check]:
    """Ten times the rows: memory, and time beyond the start of Python, the bundle and the priors of all items.

    The small runs stand before and after the large one: other work on the machine then weighs on both alike.
    """
    runs = [
        _rerank(work, name, f"grown-{number}", "--order", "fused")
        for number, name in enumerate(("start", "small", "small", "large", "small", "small", "start"))
    ]
    start, small, large = _mean(runs[0], runs[6]), _mean(*runs[1:3], *runs[4:6]), runs[3]
    memory = large.peak_mib / max(run.peak_mib for run in (*runs[1:3], *runs[4:6]))
    wall = (large.seconds - start.seconds) / (small.seconds - start.seconds) / 10
    cpu = (large.cpu_seconds - start.cpu_seconds) / (small.cpu_seconds - start.cpu_seconds) / 10
    _say(f"start {start}\nsmall {small}\nlarge {large}")
    return [
        _check("peak memory, 10x rows against 1x", memory, "<= 1.2", memory <= 1.2, "ratio"),
        _check("peak memory of the large run", large.peak_mib, "reported", True, "MiB"),
        _check("time a row, 10x rows against 1x", wall, "0.85..1.15", 0.85 <= wall <= 1.15, "ratio"),
        _check("CPU time a row, 10x rows against 1x", cpu, "0.85..1.15", 0.85 <= cpu <= 1.15, "ratio"),
        _check("speed of the large run", 10 * _rows(work, "small") / large.seconds, "reported", True, "rows/s"),
    ]


def _mean(*runs: Child) -> Child:
    return Child(
        seconds=statistics.mean(run.seconds for run in runs),
        cpu_seconds=statistics.mean(run.cpu_seconds for run in runs),
        peak_mib=statistics.mean(run.peak_mib for run in runs),
        begun=runs[0].begun,
    )


def _unsorted(work: Path) -> list[Check]:
    """The same with shuffled rows, which are sorted on the disk; without the engine, so that sorting is what counts."""
    for name in ("small", "large"):
        table = pd.read_parquet(work / f"{name}.parquet").sample(frac=1.0, random_state=0)
        table.to_parquet(work / f"{name}-shuffled.parquet", index=False)
    runs = [
        _rerank(work, name, f"shuffled-{name}", "--order", "first_stage", candidates=f"{name}-shuffled.parquet")
        for name in ("small", "large")
    ]
    memory = runs[1].peak_mib / runs[0].peak_mib
    return [_check("peak memory, unsorted, 10x rows against 1x", memory, "<= 1.2", memory <= 1.2, "ratio")]


def _resumption(work: Path, part_users: int) -> list[Check]:
    """kill -9 in the middle of a part, twice; then --resume, and compare with a run that was left alone."""
    flags = ("--order", "fused", "--part-users", str(part_users), "--resume")
    attempts = [_rerank(work, "small", "killed", *flags, kill_after=kill_after) for kill_after in (4, 11, None)]
    _rerank(work, "small", "whole", *flags)
    resumed, whole = (pd.read_parquet(work / name / "ranking") for name in ("killed", "whole"))
    manifest = json.loads((work / "killed" / "manifest.json").read_text())
    lost = len(whole) - len(whole.merge(resumed, on=list(whole.columns)))
    extra = len(resumed) - len(whole)
    begun, parts = sum(attempt.begun for attempt in attempts), manifest["counts"]["parts"]
    repeated = (begun - parts) / 2
    return [
        _check("rows lost by two kills", lost, "0", lost == 0, "rows"),
        _check("rows twice after two kills", extra, "0", extra == 0, "rows"),
        _check("parts done again, a kill", repeated, "<= 1", repeated <= 1, "parts"),
    ]


def _overhead(work: Path) -> Check:
    """The run against `Reranker.rerank` of the same rows in memory: same process, priors warm, median of pairs."""
    reranker = Reranker.load(work / "bundle")
    candidates, newer = (pd.read_parquet(work / f"small{end}.parquet") for end in ("", "-interactions"))

    def bare() -> None:
        reranker.rerank(candidates, interactions=newer, order="fused")

    def run() -> None:
        OfflineRun(
            bundle=work / "bundle",
            candidates=work / "small.parquet",
            interactions=work / "small-interactions.parquet",
            out=work / "overhead",
            order="fused",
        ).run(reranker=reranker, force=True)

    bare()
    seconds = [(_seconds(bare), _seconds(run)) for _ in range(REPEATS)]
    _say(f"bare and run, seconds: {seconds}")
    overhead = 100 * (float(np.median([whole / alone for alone, whole in seconds])) - 1)
    return _check("overhead of the run over rerank in memory", overhead, "<= 5", overhead <= 5, "%")


def _rerank(
    work: Path, table: str, run: str, *flags: str, candidates: str | None = None, kill_after: int | None = None
) -> Child:
    """Runs the command; kills it in the middle of the part that follows `kill_after` finished ones."""
    command = [
        *(sys.executable, "-c", PROGRAM, "--verbose", "rerank"),
        *("--bundle", str(work / "bundle"), "--candidates", str(work / (candidates or f"{table}.parquet"))),
        *("--interactions", str(work / f"{table}-interactions.parquet"), "--out", str(work / run), *flags),
    ]
    log = work / f"{run}.log"
    begun = time.monotonic()
    with log.open("w") as stderr:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        while kill_after is not None and len(list((work / run).glob("_run/part-*.json"))) < kill_after:
            if child.poll() is not None:
                raise RuntimeError(f"the run ended before it could be killed, see {log}")
            time.sleep(0.01)
        if kill_after is not None:
            time.sleep(0.1)
            os.kill(child.pid, signal.SIGKILL)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != (0 if kill_after is None else -signal.SIGKILL):
        raise RuntimeError(f"reranker rerank ended with {child.returncode}:\n{log.read_text()[-2000:]}")
    seconds, text = time.monotonic() - begun, log.read_text()
    return Child(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mib=float(peak[1]) / 1024 if (peak := re.search(r"VmHWM:\s+(\d+) kB", text)) else float("nan"),
        begun=text.count(": begun"),
    )


def _write_bundle(directory: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnoprstuvw"), 6)) for _ in range(200)]
    items = pd.DataFrame({"item_id": np.arange(ITEMS), "title": [" ".join(rng.choice(words, 2)) for _ in range(ITEMS)]})
    data = Dataset(interactions=_interactions(200, rng), items=items, domain="toy")
    config = RerankerConfig(engine="scripted", fit_users=50, prompt=PromptSettings(title_tokens=32, history_tokens=512))
    Reranker(config).fit(data, PopularityGenerator().fit(data.interactions)).save(directory)


def _write_tables(work: Path, name: str, users: int) -> None:
    rng = np.random.default_rng(1)
    items = rng.permuted(np.tile(np.arange(ITEMS), (users, 1)), axis=1)[:, :LIST_LENGTH]
    candidates = {
        "user_id": np.repeat(np.arange(users), LIST_LENGTH),
        "item_id": items.ravel(),
        "score": rng.random(items.size),
    }
    # Row groups of the usual writers are long; nothing may depend on short ones.
    pd.DataFrame(candidates).to_parquet(work / f"{name}.parquet", index=False)
    _interactions(users, rng).to_parquet(work / f"{name}-interactions.parquet", index=False)


def _interactions(users: int, rng: np.random.Generator) -> pd.DataFrame:
    rows = users * HISTORY_LENGTH
    return pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), HISTORY_LENGTH),
            "item_id": rng.integers(0, ITEMS, rows),
            "timestamp": np.arange(rows),
        }
    )


def _rows(work: Path, name: str) -> int:
    return len(pd.read_parquet(work / f"{name}.parquet", columns=["user_id"]))


def _seconds(what: Callable[[], None]) -> float:
    begun = time.monotonic()
    what()
    return time.monotonic() - begun


def _check(name: str, value: float, target: str, passed: bool, unit: str) -> Check:
    return Check(name=name, value=float(value), target=target, passed=bool(passed), unit=unit)


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
