"""`reranker train search`: which settings of `train prompt` are best."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import ending_by_sigterm, settings_from_yaml


def meta_search(
    config: Annotated[Path, typer.Option("--config", help="YAML with the fields of MetaConfig")],
    space: Annotated[
        Path, typer.Option("--space", help="YAML: field -> {low, high, log} or a list of choices; reranker.soft_tokens")
    ],
    out: Annotated[Path, typer.Option("--out", help="folder for the study, the runs, trials.csv and best.yaml")],
    trials: Annotated[int, typer.Option("--trials", min=1, help="in all, those already made included")] = 20,
) -> None:
    """Search settings by validation loss (TPE, median pruner); a killed search goes on where it stopped."""
    from reranker.training.search import meta_search as run
    from reranker.training.search_space import SearchSpace

    searched = SearchSpace.from_mapping(settings_from_yaml(config), settings_from_yaml(space))
    with ending_by_sigterm():
        found = run(searched, trials, out, True)
    for number, one in enumerate(found.trials):
        values = ", ".join(f"{name} {value}" for name, value in one.values.items())
        loss = "-" if one.loss is None else f"{one.loss:.4f}"
        typer.echo(f"{'*' if number == found.best else ' '}{number:3d}  {one.state:8s}  {loss}  {values}  {one.reason}")
    typer.echo(f"best settings in {found.settings}: reranker train prompt --config {found.settings} --out RUN")
