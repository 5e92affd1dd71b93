"""`reranker data add-items`: items that came after a bundle was fitted."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import (
    BundleOption,
    DtypeOption,
    ItemVectorsOption,
    OverwriteOption,
    given,
    tell_texts,
    tell_unread_columns,
)
from reranker.data.schema import ITEM
from reranker.data.table_io import read_table


def add_items(
    bundle: BundleOption,
    items: Annotated[Path, typer.Option("--items", help="table with item_id, title and further columns")],
    item_vectors: ItemVectorsOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder for the new bundle; the old one's by default, with --overwrite")
    ] = None,
    dtype: DtypeOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Add new items to a bundle by their texts, or give known ones new texts; nothing is fitted anew."""
    from reranker.pipeline.bundle import require_new_place
    from reranker.pipeline.reranker import Reranker

    require_new_place(out or bundle, overwrite)
    reranker = Reranker.load(bundle, **given(dtype=dtype))
    table = read_table(items, known={ITEM: reranker.item_ids})
    new = reranker.add_items(table, item_vectors=item_vectors)
    reranker.save(out or bundle)
    if (texts := reranker.llm_scorer.texts_read) is not None and texts.directory is not None:
        typer.echo(texts.summary())
    if reranker.llm_scorer.config.reads_texts:
        tell_texts(reranker, table)
    tell_unread_columns(reranker, table)
    if (without := reranker.n_without_vector(table[ITEM].tolist())) is not None:
        typer.echo(f"{without} of these {len(table)} items have no item vector (--item-vectors)")
    typer.echo(f"{new} items added, {len(table) - new} given new texts: saved {out or bundle}")
