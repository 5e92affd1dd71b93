"""`reranker refresh`, `rollback` and `forget`: a bundle from day to day."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import (
    BundleOption,
    DtypeOption,
    EngineOption,
    ItemVectorsOption,
    MlflowOption,
    given,
    read_users,
)
from reranker.data.schema import ITEM, USER
from reranker.data.table_io import read_table
from reranker.errors import BundleError

KeepOption = Annotated[int, typer.Option("--keep", min=1, help="versions that stay, the current one among them")]


def refresh(
    bundle: BundleOption,
    interactions: Annotated[
        Path, typer.Option("--interactions", help="what happened since: user_id, item_id and the columns of the fit")
    ],
    items: Annotated[Path | None, typer.Option("--items", help="new items, or new texts of known ones")] = None,
    item_vectors: ItemVectorsOption = None,
    candidates: Annotated[
        Path | None, typer.Option("--candidates", help="lists that were served; the bundle's own generator by default")
    ] = None,
    memory: Annotated[
        float, typer.Option("--memory", min=0, max=1, help="what earlier choices count; below 1 they fade")
    ] = 1.0,
    keep: KeepOption = 7,
    engine: EngineOption = None,
    dtype: DtypeOption = None,
    mlflow: MlflowOption = None,
) -> None:
    """Bring a bundle up to date as a new version: statistics, histories, weights, guard; no text is read twice."""
    from reranker.pipeline.reranker import Reranker
    from reranker.refresh import refresh as run
    from reranker.tracking import log_refresh, tracked

    reranker = Reranker.load(bundle, engine=engine, **given(dtype=dtype))
    known = {USER: reranker.user_ids, ITEM: reranker.item_ids}
    rows = read_users(interactions, known)
    texts = None if items is None else read_table(items, known={ITEM: reranker.item_ids})
    lists = None if candidates is None else read_users(candidates, known)
    with tracked(mlflow, "refresh", {"bundle": bundle, "memory": memory}) as tracker:
        report = run(reranker, rows, texts, item_vectors=item_vectors, candidates=lists, memory=memory, progress=True)
        log_refresh(tracker, report, reranker)
    typer.echo(report.summary())
    if not report.changed and items is None:
        typer.echo(f"nothing is new: {bundle} stays as it is")
        return
    version = reranker.save_version(bundle, keep)
    typer.echo(f"saved {version}")


def rollback(
    bundle: BundleOption,
    to: Annotated[str | None, typer.Option("--to", help="version; the one before the current by default")] = None,
    show: Annotated[bool, typer.Option("--list", help="list the versions and stop")] = False,
) -> None:
    """Serve an earlier version of a bundle again; a running server takes it on SIGHUP."""
    from reranker.pipeline import versions
    from reranker.pipeline.manifest import bundle_identity

    if show:
        current, names = versions.current_version(bundle).name, versions.versions(bundle)
        if not names:
            typer.echo(f"{bundle} has no versions yet: `reranker refresh` makes one beside it")
        for name in names:
            try:
                said = str(bundle_identity(bundle / versions.VERSIONS / name))
            except BundleError:
                said = "damaged"
            typer.echo(f"{name}  {said}{'  <- current' if name == current else ''}")
        return
    before, after = versions.rollback(bundle, to)
    typer.echo(f"{bundle}: {before} -> {after}")


def forget(
    bundle: BundleOption,
    user: Annotated[list[str], typer.Option("--user", help="user id; again for each further user")],
    dtype: DtypeOption = None,
) -> None:
    """Take users out of a bundle: histories, statistics and candidate generator as if they had never been there."""
    from reranker.pipeline import versions
    from reranker.pipeline.reranker import Reranker
    from reranker.refresh import forget_users

    reranker = Reranker.load(bundle, **given(dtype=dtype))
    ids = {str(known): known for known in reranker.user_ids}
    report = forget_users(reranker, [ids.get(one, one) for one in user])
    typer.echo(report.summary())
    if not report.users:
        return
    reranker.save(bundle)
    gone = versions.remove_others(bundle) if versions.is_versioned(bundle) else []
    typer.echo(f"saved {bundle}" + (f"; older versions removed: {', '.join(gone)}" if gone else ""))
