"""Flags that several commands share."""

import signal
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer
import yaml

from reranker.data.builtin import load_dataset
from reranker.data.catalog import Catalog
from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, USER, require_columns, validate_items
from reranker.data.signals import Signals
from reranker.data.table_io import read_dataset, read_table
from reranker.errors import ConfigError, StoppedError
from reranker.utils.progress import step
from reranker.utils.stopping import end_by_sigterm

if TYPE_CHECKING:
    from reranker.pipeline.reranker import Reranker

InteractionsOption = Annotated[
    Path | None,
    typer.Option(
        "--interactions", help="user_id, item_id, optional timestamp, event, rating, weight (parquet, csv, ...)"
    ),
]
ItemsOption = Annotated[Path | None, typer.Option("--items", help="item_id, title, optional category, description")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="a known data set, such as ml-100k, or a folder")]
DomainOption = Annotated[str | None, typer.Option("--domain", help="names the prompt family, such as movies or shop")]
BundleOption = Annotated[Path, typer.Option("--bundle", help="folder that `reranker fit` wrote")]
EngineOption = Annotated[str | None, typer.Option("--engine", help="auto, torch, vllm, openai, lexical or scripted")]
BaseUrlOption = Annotated[
    str | None, typer.Option("--base-url", help="of --engine openai: http://host:8000/v1; or OPENAI_BASE_URL")
]
DtypeOption = Annotated[str | None, typer.Option("--dtype", help="auto, bfloat16 or float32 (reference)")]
ItemVectorsOption = Annotated[
    Path | None,
    typer.Option(
        "--item-vectors",
        help="vectors of items (pictures, sounds, a model of yours): .npz with item_id and vector, or a table",
    ),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option("--features", help="columns of candidates, items and users for the ranker, comma-separated"),
]
AllowLeaksOption = Annotated[
    str | None,
    typer.Option(
        "--allow-leaks",
        help="of --features, and item_vectors, comma-separated: may tell what was chosen; others that do are refused",
    ),
]
RankerOption = Annotated[
    str | None,
    typer.Option(
        "--ranker",
        help="what weighs features and scores: linear (by default); auto tries gradient-boosted trees and takes "
        "them where their gain is beyond doubt; gradient_boosted insists on them (the extra `boosted`)",
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace the bundle that stands there")]
UserKeyOption = Annotated[
    Path | None, typer.Option("--user-key", help="key of the score log's pseudonyms (`score_log_key` of the server)")
]
MlflowOption = Annotated[
    str | None, typer.Option("--mlflow", help="track the run in this MLflow experiment; MLFLOW_TRACKING_URI says where")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="known name, Hugging Face id or local path")]


def _known_generator(name: str | None) -> str | None:
    from candidate_gen import METHODS  # not at the top: `reranker --help` needs no numbers

    if name is not None and name not in METHODS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(METHODS)}")
    return name


GeneratorOption = Annotated[
    str | None,
    typer.Option(
        "--generator",
        "--method",
        callback=_known_generator,
        help="candidate generator: als-co-visit (by default), als, item-knn, popularity, co-visit, als-item-knn, "
        "als-item-knn-popularity; several are fused by reciprocal rank",
    ),
]


def dataset_from_flags(
    dataset: str | None,
    interactions: Path | None,
    items: Path | None,
    domain: str | None,
    users: Path | None = None,
    item_vectors: Path | None = None,
    signals: Signals | None = None,
) -> Dataset:
    """The data set that the flags name.

    Raises:
        ConfigError: neither --dataset nor both tables were given, or both were.
        DataError, ModelError: it cannot be read or fetched.
    """
    vectors: Any = item_vectors  # a path, which the data set reads
    if dataset is not None:
        if interactions is not None or items is not None:
            raise ConfigError("give --dataset, or --interactions and --items, not both")
        if users is not None:
            raise ConfigError("a user table goes with --interactions and --items, not with --dataset")
        data = load_dataset(dataset, domain=domain, signals=signals)
        return data if vectors is None else replace(data, item_vectors=vectors)
    if interactions is None or items is None:
        raise ConfigError("give --interactions and --items (tables), or --dataset ml-100k")
    with step("tables"):
        chosen, listed = read_dataset(interactions, items)
        known = {USER: chosen[USER]} if USER in chosen else None
        return Dataset(
            interactions=chosen,
            items=listed,
            domain=domain or "generic",
            users=None if users is None else read_table(users, known=known),
            item_vectors=vectors,
            signals=signals or Signals(),
        )


def tell_item_vectors(data: Dataset) -> None:
    """Says how many items have a vector of the user's own; nothing where no vectors were given."""
    if data.item_vectors is not None:
        typer.echo(data.item_vectors.summary(data.items[ITEM].tolist()))


@contextmanager
def ending_by_sigterm() -> Iterator[None]:
    """SIGTERM ends a training after its step, with what it has kept: exit code 143, and a line that says so."""
    with end_by_sigterm():
        try:
            yield
        except StoppedError as error:
            typer.echo(f"{error}", err=True)
            raise typer.Exit(128 + signal.SIGTERM) from None


def names_in(text: str) -> list[str]:
    """The names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def given(**settings: Any) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return {name: value for name, value in settings.items() if value is not None}


def settings_from_yaml(path: Path | None) -> dict[str, object]:
    """The mapping in a YAML file; empty without a file.

    Raises:
        ConfigError: the file cannot be read or holds something else.
    """
    if path is None:
        return {}
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, for instance 'soft_tokens: 16'")
    return settings


def tell_texts(reranker: "Reranker", items: pd.DataFrame) -> None:
    """Says how many texts of the items are cut, not read, or read like another one; nothing where none is."""
    from reranker.prompting.text_report import TextReport

    reader = reranker.llm_scorer
    rows = Catalog(validate_items(items)).items(items[ITEM])
    tokenizer, alone = reader.engine.tokenizer, reader.config.compares_states
    if said := TextReport.of(rows, reader.renderer.settings, tokenizer, alone=alone).summary():
        typer.echo(said)


def tell_unread_columns(reranker: "Reranker", items: pd.DataFrame) -> None:
    """Names the columns of an items table that nothing reads."""
    from reranker.pipeline.unread import unread_columns

    if columns := unread_columns(map(str, items.columns), reranker.llm_scorer):
        typer.echo(f"columns of the items that are not read: {', '.join(columns)}")


def read_users(path: Path, known: Mapping[str, Iterable[Hashable]]) -> pd.DataFrame:
    """A table with a column of users.

    Args:
        known: column -> ids known so far, whose kind those of a CSV take.

    Raises:
        DataError: it cannot be read, or has no such column.
    """
    table = read_table(path, known=known)
    require_columns(table, [USER], str(path))
    return table
