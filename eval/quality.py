"""The judge on many domains: `python -m eval.quality --data DIR`.

DIR holds one folder a domain with interactions.parquet and items.parquet. A killed run goes on where it stopped: scores
of finished systems are kept under OUT/scores, what the model said of the lists under OUT/readings.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from candidate_gen import ALSGenerator
from eval.domains import FAMILIES, chosen_domains, folds_left, load_domain
from reranker.config import RerankerConfig, default_scorer
from reranker.data.dataset import Dataset
from reranker.data.splits import SPLITS, default_split
from reranker.errors import ConfigError, DataError
from reranker.evaluation import Fold, Results, Settings, evaluate
from reranker.evaluation.diagnose import diagnose as diagnoses_of
from reranker.evaluation.diagnose import diagnosis_table
from reranker.evaluation.external import external_factories
from reranker.evaluation.registry import SYSTEMS, Suite, default_systems
from reranker.evaluation.reporting.files import write_results
from reranker.evaluation.reporting.html import write_report
from reranker.evaluation.reporting.text import comparison_table, gain_matrix, length_table
from reranker.pipeline.lazy_engine import engine_of
from reranker.pipeline.lists import list_lengths
from reranker.utils.atomic_io import write_text

QUICK = ("movies", "giftware_retail", "interactive_fiction", "office_products")
ZERO_SHOT = ("first_stage", "zero_shot_likelihood", "zero_shot_labels", "zero_shot_listwise")
SUPPORTS = (1, 3, 5)


def main(
    data: Annotated[Path, typer.Option(help="folder with one folder a domain")],
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/quality"),
    domains: Annotated[str, typer.Option(help="comma-separated, or all")] = "",
    systems: Annotated[str, typer.Option(help="comma-separated; all installed by default")] = "",
    splits: Annotated[str, typer.Option(help=f"comma-separated, of {', '.join(SPLITS)}")] = "leave-last",
    candidates: Annotated[str, typer.Option(help="list lengths, comma-separated; gains are of the first")] = "50",
    seeds: Annotated[int, typer.Option(min=1, help="runs of systems that depend on chance")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="fewer users; at most 10 minutes a domain on 2 cores")] = False,
    users: Annotated[int, typer.Option(help="test users a domain; 0 for all")] = 0,
    fit_users: Annotated[int, typer.Option(help="lists the LLM reads for fitting, a domain; 0: as `fit`")] = 0,
    external: Annotated[
        list[str] | None, typer.Option(help="name=DIR with DIR/<domain>.parquet; judged in the first split")
    ] = None,
    diagnose: Annotated[int, typer.Option(min=0, help="covered users a domain to test for order and titles")] = 0,
    model: Annotated[str, typer.Option(help="model folder or name; the default model without it")] = "",
    family: Annotated[str, typer.Option(help="template family for all domains; each its own without it")] = "",
    engine: str = "auto",
    scorer: Annotated[str, typer.Option(help="scorer of llm, fused and served; the product's default")] = "",
) -> None:
    """Runs every system on every domain and prints one table."""
    names = chosen_domains(data, domains, QUICK if quick else ())
    test_users, zero_shot_users = users or None, 400
    if quick:
        test_users, zero_shot_users = users or 800, 60
    prompt = {"family": family} if family else {}
    scorer = scorer or default_scorer(engine, trained=False)
    if quick and scorer != "embedding":
        fit_users = min(fit_users or 150, 150)
    asked = {"engine": engine, "prompt": prompt, "scorer": scorer}
    config = RerankerConfig.from_mapping(asked | ({"model": model} if model else {}))
    suite = Suite(
        config,
        lambda: engine_of(config),
        fit_users,
        FAMILIES,
        progress=True,
        directory=out / "readings",
    )
    chosen = tuple(
        dict.fromkeys(("first_stage", *(filter(None, systems.split(",")) if systems else default_systems())))
    )
    settings = Settings(candidates=list_lengths(candidates), seeds=tuple(range(seeds)), covered_only=True)
    factories = suite.factories(chosen)
    outside = external_factories(external or (), SYSTEMS, names)
    parts: list[Results] = []
    for split, support in _asked(splits):
        folds = _folds(data, names, split, support, test_users)
        if not folds:
            continue
        parts.append(evaluate(folds, ALSGenerator(), factories | ({} if parts else outside), settings, out, _say))
        if len(parts) == 1 and not systems:
            smaller = [_relabelled(fold.sample_users(zero_shot_users), zero_shot_users) for fold in folds]
            short = replace(settings, candidates=settings.candidates[:1], windows=1)  # nothing is fitted on them
            zero_shot = evaluate(smaller, ALSGenerator(), suite.factories(ZERO_SHOT), short, out, _say)
    if not parts:
        raise DataError(f"--splits {splits}: none leaves any of {', '.join(names)} a test fold; the reasons are above")
    looked_at = [run for run in parts[0].runs if run.lists.n == settings.candidates[0]]
    diagnoses = diagnoses_of(looked_at, factories, diagnose) if diagnose else []
    results = Results.combined(parts if systems else [*parts, zero_shot])
    write_results(results, out, [one.record() for one in diagnoses])
    write_report(results, out / "report.html", title="Reranking, judged on " + ", ".join(names), diagnoses=diagnoses)
    tables = [comparison_table(results), gain_matrix(results)]
    tables += [length_table(results)] if len(settings.candidates) > 1 else []
    tables += [str(diagnosis_table(diagnoses))] if diagnoses else []
    write_text(out / "table.md", "\n\n".join(tables) + "\n")
    typer.echo("\n\n".join(tables))
    for comparison in results.comparisons:
        if comparison.metric == "ndcg@10" and comparison.power_note:
            typer.echo(comparison.power_note)


def _asked(splits: str) -> Sequence[tuple[str, int]]:
    """(split, support) pairs; cold users come with every support."""
    names = splits.split(",")
    unknown = [name for name in names if name not in SPLITS]
    if unknown:
        raise ConfigError(f"--splits: unknown {', '.join(unknown)}; there are {', '.join(SPLITS)}")
    return [(name, support) for name in names for support in (SUPPORTS if name == "cold-users" else (0,))]


def _folds(data: Path, names: Sequence[str], split: str, support: int, users: int | None) -> list[Fold]:
    """Of the domains that the split leaves a test fold; the others are named.

    Domains without order take a random item where the split is leave-last; the fold's label says so.
    """

    def cut(loaded: Dataset) -> Fold:
        fold = SPLITS[default_split(loaded) if split == "leave-last" else split](loaded, support)
        return fold if users is None else fold.sample_users(users)

    return folds_left((load_domain(data, name) for name in names), cut, split)


def _relabelled(fold: Fold, users: int) -> Fold:
    return replace(fold, split=f"{fold.split}_of_{users}")


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
