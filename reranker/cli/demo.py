"""`reranker demo`: the whole product on ml-100k, in a few minutes."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import DtypeOption, EngineOption, given


def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for the results")] = Path("out/demo"),
    users: Annotated[int, typer.Option("--users", min=20, help="test users, at most 943")] = 500,
    fit_users: Annotated[
        int | None, typer.Option("--fit-users", min=10, help="lists the LLM scores for fitting")
    ] = None,
    engine: EngineOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Rerank real first-stage lists of real users with a real LLM, and print what it gained."""
    from reranker.cli.demo_run import run_demo

    run_demo(out, typer.echo, users=users, fit_users=fit_users, **given(engine=engine, dtype=dtype))
