"""`reranker models quantise`: a base model whose layers multiply in int8."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import ModelOption
from reranker.hub import DEFAULT_MODEL, quantise, resolve_model


def quantise_base(
    out: Annotated[Path, typer.Option("--out", help="folder for the model; must not exist")],
    model: ModelOption = None,
) -> None:
    """Quantise a base model to int8 for the vLLM engine; its scores differ a little from the original's."""
    found = resolve_model(model or DEFAULT_MODEL)
    quantise(found, out)
    typer.echo(f"{found.model_id} in int8: {out}. Use it with --engine vllm --model {out}")
