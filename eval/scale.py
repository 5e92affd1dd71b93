"""How `fit` grows: `python -m eval.scale --items 97000 --interactions 1000000 [--scorer baseline] --out DIR`.

Makes a catalogue and its interactions, runs `reranker fit` on them in a process of its own, and prints the time, the
seconds of processor cores and the peak of memory, PASS or FAIL against --minutes and --gib. Items have long tails and
users tastes, so that lists hold choices.
"""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from eval.checks import Check, at_most, machine, report, reported

GROUPS = 500
PART, TIMES, GROWTH = (5_000, 50_000), 4, 1.25
"""Items and interactions of a part, how many parts are compared with one, and what a part more may cost, in parts."""
_OWN_SHARE = 0.8  # of choices within the user's group
_PROGRAM = "from reranker.cli import main\nmain()"


def main(
    items: Annotated[int, typer.Option(min=1000)] = 97_000,
    interactions: Annotated[int, typer.Option(min=1000)] = 1_000_000,
    history: Annotated[int, typer.Option(min=2, help="interactions a user")] = 10,
    scorer: str = "baseline",
    minutes: Annotated[float, typer.Option(help="target")] = 3.0,
    gib: Annotated[float, typer.Option(help="target")] = 2.0,
    out: Path = Path("out/scale"),
) -> None:
    """Writes the tables, fits, prints."""
    one = fitted(out, items, interactions, history, scorer)
    typer.echo("\n".join([*one.said, *one.steps]))
    name = f"fit --scorer {scorer}, {items:,} items x {interactions:,} interactions"
    checks = [
        at_most(f"{name}, time", one.seconds / 60, minutes, "min"),
        at_most(f"{name}, peak of memory", one.gib, gib, "GiB"),
        reported(f"{name}, processor time", one.processor_seconds / 60, "min"),
        reported(f"{name}, outside of steps that it names", one.unnamed_seconds, "s"),
    ]
    report(checks, out / "scale.json", machine(("reranker", "implicit")), typer.echo)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a `reranker fit` in a process of its own took.

    Attributes:
        seconds: that passed.
        processor_seconds: of all its cores.
        gib: its peak of memory.
        said: its lines.
        steps: a line each, with its seconds.
    """

    seconds: float
    processor_seconds: float
    gib: float
    said: list[str]
    steps: list[str]

    @property
    def unnamed_seconds(self) -> float:
        """That passed outside of named steps, with the start and the end of the process."""
        return self.seconds - sum(float(line.split()[-2]) for line in self.steps)


def fitted(out: Path, items: int, interactions: int, history: int = 10, scorer: str = "baseline") -> Fitted:
    """Makes the tables and fits.

    Raises:
        SystemExit: it failed; with what it said last.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_tables(out, items, interactions, history)
    command = [
        *(sys.executable, "-c", _PROGRAM, "--verbose", "fit", "--scorer", scorer, "--domain", "shop"),
        *("--interactions", str(out / "interactions.parquet"), "--items", str(out / "items.parquet")),
        *("--out", str(out / "bundle")),
    ]
    log, began = out / "fit.log", time.monotonic()
    with log.open("w") as stderr:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert child.stdout is not None
        with child.stdout:
            said = child.stdout.read().splitlines()
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds, text = time.monotonic() - began, log.read_text()
    if child.returncode:
        raise SystemExit(f"reranker fit ended with {child.returncode}: {text[-2000:]}")
    return Fitted(
        seconds=seconds,
        processor_seconds=usage.ru_utime + usage.ru_stime,
        gib=usage.ru_maxrss / 2**20,
        said=said,
        steps=re.findall(r"progress: (.*: [\d.]+ s)$", text, flags=re.MULTILINE),
    )


def growth_checks(out: Path) -> list[Check]:
    """What `fit` takes of `TIMES` as many items and interactions, over what it takes of one part: ratios of one run."""
    small = fitted(out / "small", *PART)
    large = fitted(out / "large", *(TIMES * size for size in PART))
    name = f"fit without texts, {TIMES} x ({PART[0]:,} items x {PART[1]:,} interactions) over one"
    return [
        at_most(f"{name}, processor time", large.processor_seconds / small.processor_seconds, GROWTH * TIMES, "x"),
        at_most(f"{name}, peak of memory", large.gib / small.gib, GROWTH * TIMES, "x"),
        reported(f"{name}, peak of memory", large.gib, "GiB"),
    ]


def write_tables(out: Path, items: int, interactions: int, history: int) -> None:
    """interactions.parquet and items.parquet: items of `GROUPS` tastes, popularity 1 / place within each."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("abcdefghijklmnoprstuvw"), 6)) for _ in range(5000)])
    titles = [" ".join(row) for row in words[rng.integers(0, len(words), (items, 3))]]
    group = [f"group {number % GROUPS}" for number in range(items)]
    pd.DataFrame({"item_id": np.arange(items), "title": titles, "category": group}).to_parquet(
        out / "items.parquet", index=False
    )
    users = interactions // history
    user = np.repeat(np.arange(users), history)
    size = items // GROUPS
    place = np.minimum(size ** rng.random(len(user)), size - 1).astype(np.int64)  # log-uniform: 1 / place
    own = np.where(rng.random(len(user)) < _OWN_SHARE, user % GROUPS, rng.integers(0, GROUPS, len(user)))
    table = {"user_id": user, "item_id": place * GROUPS + own, "timestamp": np.arange(len(user))}
    pd.DataFrame(table).to_parquet(out / "interactions.parquet", index=False)


if __name__ == "__main__":
    typer.run(main)
