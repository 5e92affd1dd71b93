"""`reranker train adapt`: a trained prompt, adapted to your domain in a few steps."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import (
    DatasetOption,
    DomainOption,
    DtypeOption,
    InteractionsOption,
    ItemsOption,
    ModelOption,
    dataset_from_flags,
    given,
    settings_from_yaml,
)


def adapt_domain(
    start: Annotated[str, typer.Option("--start", help="a prompt that `train prompt` wrote, default, or untrained")],
    out: Annotated[Path, typer.Option("--out", help="folder for the domain's prompt")],
    interactions: InteractionsOption = None,
    items: ItemsOption = None,
    dataset: DatasetOption = None,
    domain: DomainOption = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML with fields of RerankerConfig")] = None,
    model: ModelOption = None,
    dtype: DtypeOption = None,
    n: Annotated[int | None, typer.Option("--n", help="length of the first-stage lists")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="as many as the prompt was trained for")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="step size, as the prompt was trained for")] = None,
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="users to learn from (100)")] = None,
    judged_users: Annotated[
        int | None, typer.Option("--judged-users", min=2, help="others that decide whether the result is kept (200)")
    ] = None,
    lists_per_step: Annotated[int | None, typer.Option("--lists-per-step", min=1, help="(64)")] = None,
    hold_out: Annotated[
        int | None, typer.Option("--hold-out", min=0, help="newest interactions a user that are not seen (1)")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0)] = None,
) -> None:
    """Adapt a prompt to a domain on lists of a few of its users; kept only if better on other users' lists."""
    from reranker.pipeline.reranker import Reranker
    from reranker.training.adapt_domain import AdaptationSettings
    from reranker.training.adapt_domain import adapt_domain as run
    from reranker.training.inner_loop import InnerLoop

    settings = {**settings_from_yaml(config), **given(model=model, dtype=dtype, n_candidates=n)}
    settings |= {"engine": "torch", "scorer": "likelihood"}
    reranker = Reranker.from_pretrained(start, **settings)
    data = dataset_from_flags(dataset, interactions, items, domain)
    loop = replace(InnerLoop.beside(Path(start)) or InnerLoop(), **given(steps=steps, rate=rate))
    adaptation = AdaptationSettings(
        inner_loop=loop,
        **given(
            users=sample,
            judged_users=judged_users,
            lists_per_step=lists_per_step,
            hold_out=hold_out,
            seed=seed,
        ),
    )
    adapted = run(reranker, data, settings=adaptation, progress=True)
    adapted.save(out)
    typer.echo(f"{adapted.summary()}; prompt in {out}")
