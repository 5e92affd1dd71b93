"""SASRec as a peer, trained by RecBole in an environment of its own: `python -m eval.sasrec.run --data DIR`.

OUT/sasrec/<domain>.parquet holds its scores, which `python -m eval.quality --external sasrec=OUT/sasrec` takes too. A
killed run goes on: domains whose lists have not changed are not trained again.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from candidate_gen import ALSGenerator
from eval.domains import chosen_domains, load_domain
from reranker.errors import ConfigError, DataError
from reranker.evaluation import Fold, Settings, evaluate, leave_last_k, propose
from reranker.evaluation.baselines import FirstStageOrder, LinearControl
from reranker.evaluation.external import constant, export_lists, read_external
from reranker.evaluation.reporting.files import write_results
from reranker.evaluation.reporting.html import write_report
from reranker.evaluation.reporting.text import comparison_table
from reranker.evaluation.runner import SystemFactory
from reranker.pipeline.lists import list_lengths
from reranker.utils.atomic_io import write_text

NAME = "sasrec"
WORKER = Path(__file__).with_name("worker.py")
PYTHON = "3.11"
# RecBole 1.2.1 needs the old numpy and pandas; so does the pyarrow that reads the lists.
PACKAGES = ("recbole==1.2.1", "numpy<2", "pandas<3", "pyarrow<22", "setuptools<81")
TORCH = ("torch==2.13.0+cpu", "torch==2.13.0")
"""The CPU build where the index has it."""


def main(
    data: Annotated[Path, typer.Option(help="folder with one folder a domain")],
    out: Annotated[Path, typer.Option(help="folder for scores and results")] = Path("out/sasrec"),
    domains: Annotated[str, typer.Option(help="comma-separated, or all")] = "movies,video_games",
    venv: Annotated[Path | None, typer.Option(help="RecBole's environment; made when missing [OUT/venv]")] = None,
    users: Annotated[int, typer.Option(help="test users a domain; 0 for all")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="passes over the data, at most; stops early")] = 200,
    length: Annotated[int, typer.Option(min=1, help="newest items of a history that count")] = 50,
    candidates: Annotated[str, typer.Option(help="list lengths, comma-separated; the longest is scored")] = "50,200",
) -> None:
    """Train SASRec on each domain and judge it beside the first stage and the features."""
    lengths = list_lengths(candidates)
    python = _environment(venv or out / "venv")
    folds: list[Fold] = []
    for name in chosen_domains(data, domains):
        loaded = load_domain(data, name)
        if not loaded.has_order:
            _say(f"{name}: left out, it has no order in time and SASRec needs sequences")
            continue
        fold = leave_last_k(loaded)
        folds.append(fold.sample_users(users) if users else fold)
        _score(folds[-1], python, out, max(lengths), ("--epochs", str(epochs), "--length", str(length)))
    if not folds:
        raise DataError(f"none of the domains {domains!r} has an order in time: SASRec needs sequences")
    sasrec = read_external(f"{NAME}={out / NAME}", [fold.domain for fold in folds])
    systems: dict[str, SystemFactory] = {
        "first_stage": lambda _: FirstStageOrder(),
        "baseline": lambda _: LinearControl(),
        NAME: constant(sasrec),
    }
    settings = Settings(candidates=lengths, covered_only=True, rivals=((NAME, "baseline"),))
    results = evaluate(folds, ALSGenerator(), systems, settings, out, _say)
    write_results(results, out)
    write_report(results, out / "report.html", title="SASRec beside the first stage and the baseline", focus=NAME)
    table = comparison_table(results)
    write_text(out / "table.md", table + "\n")
    typer.echo(table)


def _score(fold: Fold, python: Path, out: Path, n: int, options: tuple[str, ...]) -> None:
    """Writes OUT/sasrec/<domain>.parquet, unless it is there for the same lists and options."""
    lists = propose(fold, ALSGenerator(), n)
    scores = out / NAME / f"{fold.domain}.parquet"
    key, kept = f"{lists.fingerprint} {' '.join(options)}", scores.with_suffix(".key")
    if scores.exists() and kept.exists() and kept.read_text() == key:
        _say(f"{fold.domain}: scores of the last run are used again")
        return
    exported = out / "lists" / fold.domain
    export_lists(lists, exported)
    scores.parent.mkdir(parents=True, exist_ok=True)
    _say(f"{fold.domain}: training SASRec on {len(fold.train)} interactions")
    command = [str(python.absolute()), "-W", "ignore", str(WORKER), str(exported.absolute()), str(scores.absolute())]
    _run([*command, *options], f"training SASRec on {fold.domain}", exported)
    write_text(kept, key)


def _environment(venv: Path) -> Path:
    """The interpreter of RecBole's environment, which is made when it is missing."""
    python, stamp = venv / "bin" / "python", venv / ".sasrec-ready"
    wanted = " ".join((*PACKAGES, *TORCH))
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    if not python.exists():
        _say(f"creating {venv}")
        _run([_interpreter(), "-m", "venv", str(venv)], f"creating {venv}")
    _say("installing RecBole (some minutes)")
    install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    if subprocess.run([*install, TORCH[0]], check=False, capture_output=True).returncode:
        _run([*install, TORCH[1]], "installing torch")
    _run([*install, *PACKAGES], "installing RecBole")
    write_text(stamp, wanted)
    return python


def _interpreter() -> str:
    """Python 3.11, the last that RecBole 1.2.1 installs on."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
        return sys.executable
    return f"python{PYTHON}"


def _run(command: list[str], purpose: str, folder: Path | None = None) -> None:
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    try:
        subprocess.run(command, check=True, cwd=folder, env=environment)
    except FileNotFoundError as error:
        raise ConfigError(f"{purpose} failed: there is no {command[0]}; SASRec's environment needs it") from error
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"{purpose} failed with exit code {error.returncode}; its own message is above") from error


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
