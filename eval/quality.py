"""The judge on many domains: `python -m eval.quality --data DIR`.

DIR holds one folder a domain with interactions.parquet and items.parquet. A killed run goes on where it stopped: scores
of finished systems are kept under OUT/scores.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from candidate_gen import ALSRecall
from reranker.config import RerankerConfig
from reranker.engines import load_engine
from reranker.errors import DataError
from reranker.evaluation import Fold, Results, Settings, evaluate, leave_last_k, leave_random_k
from reranker.evaluation.report import write_report
from reranker.evaluation.results import write_results
from reranker.evaluation.suite import Suite, default_systems
from reranker.evaluation.table import comparison_table, gain_matrix
from reranker.hub import load_dataset
from reranker.tables import TIMESTAMP, Dataset

# Their row numbers are no times (../shared/data/SOURCES.md): nothing about sequence may be claimed on them.
UNORDERED = ("anime", "books_bx")
FAMILIES = {
    "anime": "video",
    "books_bx": "books",
    "giftware_retail": "shop",
    "groceries": "shop",
    "interactive_fiction": "games",
    "office_products": "shop",
    "video_games": "games",
}
QUICK = ("movies", "giftware_retail", "interactive_fiction", "office_products")
ZERO_SHOT = ("recall", "zero_shot_likelihood", "zero_shot_labels", "zero_shot_listwise")


def main(
    data: Annotated[Path, typer.Option(help="folder with one folder a domain")],
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/quality"),
    domains: Annotated[str, typer.Option(help="comma-separated, or all")] = "",
    systems: Annotated[str, typer.Option(help="comma-separated; all installed by default")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="runs of systems that depend on chance")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="fewer users; at most 10 minutes a domain on 2 cores")] = False,
    users: Annotated[int, typer.Option(help="test users a domain; 0 for all")] = 0,
    fit_users: Annotated[int, typer.Option(help="lists the LLM reads for fitting, a domain")] = 500,
    engine: str = "auto",
) -> None:
    """Runs every system on every domain and prints one table."""
    names = _domains(data, domains, quick)
    test_users, zero_shot_users = users or None, 400
    if quick:
        test_users, zero_shot_users, fit_users = users or 800, 60, min(fit_users, 150)
    config = RerankerConfig(engine=engine)
    suite = Suite(config, lambda: load_engine(engine, config.model), fit_users, FAMILIES, progress=True)
    folds = [_fold(data / name, name, test_users) for name in names]
    chosen = tuple(filter(None, systems.split(","))) or default_systems()
    settings = Settings(
        seeds=tuple(range(seeds)), covered_only=True, fingerprint=f"{config.model_dump_json()}|{fit_users}"
    )
    factories = suite.factories(tuple(dict.fromkeys(("recall", *chosen))))
    parts = [evaluate(folds, ALSRecall(), factories, settings, out, _say)]
    if not systems:
        smaller = [_relabelled(fold.sample_users(zero_shot_users), zero_shot_users) for fold in folds]
        parts.append(evaluate(smaller, ALSRecall(), suite.factories(ZERO_SHOT), settings, out, _say))
    results = Results.combined(parts)
    write_results(results, out)
    write_report(results, out / "report.html", title="Reranking, judged on " + ", ".join(names), focus=_focus(chosen))
    table = f"{comparison_table(results)}\n\n{gain_matrix(results)}"
    (out / "table.md").write_text(table + "\n")
    typer.echo(table)
    for comparison in results.comparisons:
        if comparison.metric == "ndcg@10" and comparison.power_note:
            typer.echo(comparison.power_note)


def _domains(data: Path, domains: str, quick: bool) -> list[str]:
    found = sorted(path.name for path in data.iterdir() if (path / "interactions.parquet").exists())
    if domains == "all" or (not domains and not quick):
        return found
    names = domains.split(",") if domains else [name for name in QUICK if name in found]
    missing = sorted(set(names) - set(found))
    if missing or not names:
        raise DataError(f"{data} holds no domain {', '.join(missing)}; it has {', '.join(found)}")
    return names


def _fold(folder: Path, name: str, users: int | None) -> Fold:
    data = load_dataset(folder, domain=name)
    if name in UNORDERED:
        data = Dataset(interactions=data.interactions.drop(columns=TIMESTAMP), items=data.items, domain=name)
    fold = leave_last_k(data) if data.has_order else leave_random_k(data)
    return fold if users is None else fold.sample_users(users)


def _relabelled(fold: Fold, users: int) -> Fold:
    return replace(fold, split=f"{fold.split}_of_{users}")


def _focus(systems: tuple[str, ...]) -> str | None:
    return next((name for name in ("served", "fused") if name in systems), None)


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
