"""`reranker fit`: learn a domain and save a bundle."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from reranker.cli.options import (
    BaseUrlOption,
    DatasetOption,
    DomainOption,
    DtypeOption,
    EngineOption,
    InteractionsOption,
    ItemsOption,
    ModelOption,
    dataset_from_flags,
    given,
    settings_from_yaml,
)
from reranker.config import ReadOut
from reranker.data.schema import ITEM, USER
from reranker.data.table_io import read_table
from reranker.errors import ConfigError


def fit(
    out: Annotated[Path, typer.Option("--out", help="folder for the bundle")],
    interactions: InteractionsOption = None,
    items: ItemsOption = None,
    dataset: DatasetOption = None,
    domain: DomainOption = None,
    candidates: Annotated[
        Path | None, typer.Option("--candidates", help="your own recall lists, served before --held-out was chosen")
    ] = None,
    held_out: Annotated[Path | None, typer.Option("--held-out", help="what users chose after --candidates")] = None,
    prompt: Annotated[
        str,
        typer.Option("--prompt", help="folder of a trained prompt, as `meta-train` writes it; default; untrained"),
    ] = "default",
    item_vectors: Annotated[
        Path | None,
        typer.Option("--item-vectors", help="item_id, and vector or numeric columns: newer items for item tokens"),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML with fields of RerankerConfig")] = None,
    model: ModelOption = None,
    engine: EngineOption = None,
    base_url: BaseUrlOption = None,
    dtype: DtypeOption = None,
    scoring: Annotated[
        str | None,
        typer.Option(
            "--scoring", help=f"{', '.join(get_args(ReadOut))}; embedding, or likelihood with --prompt or a server"
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="length of the recall lists to learn on")] = None,
    fit_users: Annotated[int | None, typer.Option("--fit-users", help="lists the LLM scores, at most")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
) -> None:
    """Learn a domain from interactions and save a bundle; recall is ALS unless you bring your own lists."""
    from candidate_gen import ALSRecall
    from reranker.pipeline.bundle import require_place, require_storable
    from reranker.pipeline.reranker import Reranker

    settings = given(
        model=model, engine=engine, dtype=dtype, scoring=scoring, n_candidates=n, fit_users=fit_users, seed=seed
    )
    settings = {**settings_from_yaml(config), **settings}
    if base_url is not None:
        settings["engine_options"] = {**settings.get("engine_options", {}), "base_url": base_url}
    if settings.get("engine") == "openai":
        settings.setdefault("soft_tokens", 0)  # a server takes no vectors
    data = dataset_from_flags(dataset, interactions, items, domain)
    require_place(out)  # now, not after hours of reading
    require_storable(data)
    reranker = Reranker.from_pretrained(prompt, **settings)
    known = {USER: data.interactions[USER], ITEM: data.items[ITEM]}
    vectors = None if item_vectors is None else read_table(item_vectors, known=known)
    if candidates is not None or held_out is not None:
        if candidates is None or held_out is None:
            raise ConfigError("your own recall needs both --candidates and --held-out")
        served, chosen = (read_table(table, known=known) for table in (candidates, held_out))
        reranker.fit(data, candidates=served, held_out=chosen, item_vectors=vectors, progress=True)
    else:
        recall = ALSRecall(seed=reranker.config.seed).fit(data.interactions)
        reranker.fit(data, recall, item_vectors=vectors, progress=True)
    if (tokens := reranker.reader.item_tokens) is not None:
        told = int((tokens.table.rows(data.items[ITEM]) >= 0).sum())
        typer.echo(f"item tokens: {told} of {len(data.items)} items have a vector; the others get no token")
    reranker.save(out)
    assert reranker.blend is not None
    typer.echo(f"{reranker.blend.guard.in_words()}")
    for line in reranker.blend.fused.in_words(most=6):
        typer.echo(f"  {line}")
    typer.echo(f"saved {out}")
