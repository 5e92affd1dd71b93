"""`reranker demo`: the whole product on data that anyone may fetch, in a few minutes."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import DtypeOption, EngineOption, given


def demo(
    dataset: Annotated[str, typer.Option("--dataset", help="groceries (MIT), ml-100k, or a folder")] = "groceries",
    out: Annotated[Path, typer.Option("--out", help="folder for the results")] = Path("out/demo"),
    sample: Annotated[int, typer.Option("--sample", min=20, help="test users, at most")] = 500,
    fit_users: Annotated[
        int | None, typer.Option("--fit-users", min=10, help="lists the LLM scores for fitting")
    ] = None,
    engine: EngineOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Rerank real lists by features, words and an LLM: known users, new items, a new user; lists before and after."""
    from reranker.cli.demo_run import run_demo
    from reranker.data.builtin import load_dataset

    run_demo(
        load_dataset(dataset), out, typer.echo, users=sample, fit_users=fit_users, **given(engine=engine, dtype=dtype)
    )
