"""`reranker users adapt`: contexts for the users of a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import BundleOption, DtypeOption, given, read_users
from reranker.data.schema import USER, require_ids_like


def adapt(
    bundle: BundleOption,
    users_db: Annotated[str, typer.Option("--users-db", help="SQLite file, or redis://...: where contexts are kept")],
    users: Annotated[
        Path | None, typer.Option("--users", help="table with user_id; everyone in the bundle and the store by default")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="gradient steps a user")] = 2,
    dtype: DtypeOption = None,
) -> None:
    """Adapt users' contexts to what they chose, in one batch; those adapted before go on from there."""
    from reranker.pipeline.reranker import Reranker
    from reranker.stores import open_user_store

    reranker = Reranker.load(bundle, engine="torch", **given(dtype=dtype))
    asked = None
    if users is not None:
        table = read_users(users, {USER: reranker.user_ids})
        require_ids_like(reranker.user_ids, table[USER], str(users))
        asked = table[USER].tolist()
    store = open_user_store(users_db)
    try:
        report = reranker.adapt(asked, store=store, steps=steps, progress=True)
    finally:
        store.close()
    typer.echo(
        f"{report.users} users adapted in {report.seconds:.1f} s ({report.tokens} tokens), {report.new_users} without "
        f"interactions, {report.drifted} drifted; nats a token {report.loss_before:.3f} -> {report.loss_after:.3f}"
    )
