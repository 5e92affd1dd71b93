"""`reranker models show`: fetch a base model and show what it is, or what a model server can do."""

from typing import Annotated

import typer

from reranker.hub import available_models, resolve_model


def models(
    name: Annotated[
        str | None, typer.Argument(help="known name, Hugging Face id or local path; lists the known ones when left out")
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option("--probe", help="OpenAI server, http://host:8000/v1: show what it can do for reranking"),
    ] = None,
) -> None:
    """Fetch and verify a base model, list the known ones, or ask a model server what works there."""
    if probe is not None:
        from reranker.engines.openai.engine import probe_server

        typer.echo(probe_server(probe, name).table())
        return
    if name is None:
        for known in available_models():
            typer.echo(known)
        return
    model = resolve_model(name)
    typer.echo(f"model   {model.model_id}\npath    {model.path}\nsha256  {model.sha256}")
