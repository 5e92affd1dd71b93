"""The `reranker` command. Exit codes: 0 done, 1 our error with one clear line, 2 usage."""

import logging
import sys
from collections.abc import Callable

import typer

from reranker.cli import (
    adapt,
    adapt_domain,
    add_items,
    candidates,
    data,
    demo,
    evaluate,
    export,
    fit,
    inspect,
    meta_train,
    models,
    prompts,
    quantise_base,
    refresh,
    rerank,
    serve,
)
from reranker.errors import RerankerError

app = typer.Typer(
    name="reranker",
    help="Rerank recommendation candidates with a causal LLM; no order is served that a validation fold says is worse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (demo.demo, fit.fit, rerank.rerank, evaluate.evaluate, serve.serve, inspect.inspect, refresh.refresh):
    app.command()(command)
app.command()(refresh.rollback)

_GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "data": (
        "Fetch and check tables, propose candidates, add items.",
        {"show": data.data, "candidates": candidates.candidates, "add-items": add_items.add_items},
    ),
    "train": (
        "Learn soft prompts over domains, adapt them to one.",
        {
            "prompt": meta_train.meta_train,
            "adapt": adapt_domain.adapt_domain,
        },
    ),
    "models": ("Fetch and look at base models.", {"show": models.models, "quantise": quantise_base.quantise_base}),
    "users": (
        "The users of a bundle: adapt their contexts, forget them, export what is kept.",
        {"adapt": adapt.adapt, "forget": refresh.forget, "export": export.export},
    ),
    "keys": ("Keys of the endpoint.", {"add": serve.serve_key}),
}
for _name, (_help, _commands) in _GROUPS.items():
    _group = typer.Typer(name=_name, help=_help, no_args_is_help=True)
    for _command, _function in _commands.items():
        _group.command(_command)(_function)
    app.add_typer(_group)
app.add_typer(prompts.prompts)


@app.callback()
def _options(verbose: bool = typer.Option(False, "--verbose", "-v", help="Log every step to stderr.")) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("reranker", "candidate_gen"):
        logging.getLogger(name).setLevel(level)


def main() -> None:
    """Entry point: runs a command; our own errors become one line on stderr and exit code 1."""
    try:
        app()
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except (RerankerError, OSError) as error:  # OSError: the disk refused a result
        # Messages of parsers span lines; ours must not.
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
