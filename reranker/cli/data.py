"""`reranker data show`: fetch a data set and look at it, or check tables of your own."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import DomainOption, InteractionsOption, ItemsOption, dataset_from_flags
from reranker.cli.signal_options import (
    EventWeightsOption,
    RatingScaleOption,
    RepeatsOption,
    TargetEventsOption,
    signals_from_flags,
)
from reranker.data.builtin import available_datasets
from reranker.data.schema import ITEM, TIMESTAMP, TITLE, UNTITLED, USER
from reranker.data.signals import told
from reranker.data.table_io import write_table


def data(
    name: Annotated[str | None, typer.Argument(help="a known data set or a folder; lists them when left out")] = None,
    interactions: InteractionsOption = None,
    items: ItemsOption = None,
    domain: DomainOption = None,
    event_weights: EventWeightsOption = None,
    rating_scale: RatingScaleOption = None,
    target_events: TargetEventsOption = None,
    repeats: RepeatsOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder to write both tables to")] = None,
) -> None:
    """Fetch a data set or check your own tables; print what is in them."""
    if name is None and interactions is None and items is None:
        for known in available_datasets():
            typer.echo(known)
        return
    signals = signals_from_flags(event_weights, rating_scale, target_events, repeats)
    found = dataset_from_flags(name, interactions, items, domain, signals=signals)
    table = found.interactions
    per_user = table.groupby(USER).size()
    typer.echo(f"domain        {found.domain}")
    typer.echo(f"interactions  {len(table)}, {'with timestamps' if TIMESTAMP in table else 'without timestamps'}")
    typer.echo(
        f"users         {len(per_user)}, {per_user.min()}..{per_user.max()} interactions, median {per_user.median():g}"
    )
    unknown = ~table[ITEM].isin(found.items[ITEM])
    typer.echo(
        f"items         {len(found.items)}, {int((found.items[TITLE] == UNTITLED).sum())} without a title, "
        f"{int(unknown.sum())} interactions with items that are not in the table"
    )
    if found.unused_columns:
        typer.echo(f"not used      {', '.join(found.unused_columns)}: columns of the interactions")
    for line in told(found.interactions, found.signals):
        typer.echo(f"signals       {line}")
    found.require_shared_items()
    if out is not None:
        write_table(table, out / "interactions.parquet")
        write_table(found.items, out / "items.parquet")
        typer.echo(f"wrote {out / 'interactions.parquet'} and {out / 'items.parquet'}")
