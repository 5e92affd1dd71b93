"""The `reranker` command. Exit codes: 0 done, 1 our error with one clear line, 2 usage."""

import logging
import sys

import typer

from reranker.cli import (
    adapt,
    adapt_domain,
    add_items,
    data,
    demo,
    evaluate,
    fit,
    inspect,
    meta_search,
    meta_train,
    models,
    prompts,
    quantise_base,
    recall,
    rerank,
    serve,
    tune_base,
)
from reranker.errors import RerankerError

app = typer.Typer(
    name="reranker",
    help="Rerank recommendation candidates with a causal LLM; no order is served that a validation fold says is worse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (demo.demo, fit.fit, recall.recall, rerank.rerank, evaluate.evaluate, inspect.inspect):
    app.command()(command)
app.command("data")(data.data)
app.command("tune-base")(tune_base.tune_base)
app.command("quantise-base")(quantise_base.quantise_base)
app.command("meta-train")(meta_train.meta_train)
app.command("meta-search")(meta_search.meta_search)
app.command("adapt-domain")(adapt_domain.adapt_domain)
app.add_typer(prompts.prompts)
app.command("models")(models.models)
app.command("add-items")(add_items.add_items)
app.command("adapt")(adapt.adapt)
app.command("serve")(serve.serve)
app.command("serve-key")(serve.serve_key)


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
