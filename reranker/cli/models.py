"""`reranker models`: fetch a base model and show what it is."""

from typing import Annotated

import typer

from reranker.hub import available_models, resolve_model


def models(
    name: Annotated[
        str | None, typer.Argument(help="known name, Hugging Face id or local path; lists the known ones when left out")
    ] = None,
) -> None:
    """Fetch and verify a base model, or list the known ones."""
    if name is None:
        for known in available_models():
            typer.echo(known)
        return
    model = resolve_model(name)
    typer.echo(f"model   {model.model_id}\npath    {model.path}\nsha256  {model.sha256}")
