"""`reranker rerank`: candidates in, reranked lists out."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import BundleOption, DtypeOption, EngineOption, given
from reranker.tables import read_table, write_table


def rerank(
    bundle: BundleOption,
    candidates: Annotated[Path, typer.Option("--candidates", help="user_id, item_id and score or rank")],
    out: Annotated[Path, typer.Option("--out", help="ranking to write (parquet, csv)")],
    interactions: Annotated[
        Path | None, typer.Option("--interactions", help="newer histories than the bundle's")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="rows kept a user; all by default")] = None,
    engine: EngineOption = None,
    dtype: DtypeOption = None,
    order: Annotated[
        str | None, typer.Option("--order", help="serve fused, features or recall whatever the guard decided")
    ] = None,
) -> None:
    """Rerank a candidates table with a bundle."""
    from reranker.fusion import as_order
    from reranker.pipeline import Reranker

    reranker = Reranker.load(bundle, engine=engine, **given(dtype=dtype))
    ranked = reranker.rerank(
        read_table(candidates),
        k,
        interactions=None if interactions is None else read_table(interactions),
        order=None if order is None else as_order(order),
        progress=True,
    )
    write_table(ranked, out)
    report = ranked.attrs["report"]
    typer.echo(
        f"wrote {len(ranked)} rows of {report['users']} users to {out}: {report['served']} order; "
        f"{report['unknown_users']} users without history, {report['unknown_items']} candidates not in the item table"
    )
