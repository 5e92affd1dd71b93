"""The experiments' domains: a folder each, with interactions.parquet and items.parquet."""

from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from reranker.data.dataset import Dataset
from reranker.data.schema import TIMESTAMP
from reranker.data.table_io import read_dataset
from reranker.errors import DataError
from reranker.evaluation import Fold
from reranker.pipeline.domain import SIGNAL_COLUMNS

# Their row numbers are no times (SOURCES.md beside the data): nothing about sequence may be claimed on them.
UNORDERED = ("anime", "books_bx")
FAMILIES = {
    "anime": "video",
    "books_bx": "books",
    "giftware_retail": "shop",
    "groceries": "shop",
    "interactive_fiction": "games",
    "office_products": "shop",
    "video_games": "games",
}
"""Domain -> template family, where it is not called like one."""


def chosen_domains(data: Path, domains: str, default: tuple[str, ...] = ()) -> list[str]:
    """The domains of a comma-separated list, or all.

    Args:
        default: those of them that exist are taken when `domains` is empty; all when there is no default.

    Raises:
        DataError: a domain has no folder, or there are none.
    """
    found = sorted(path.parent.name for path in data.glob("*/interactions.parquet"))
    if not found:
        raise DataError(f"{data} holds no folder with an interactions.parquet, one a domain")
    if domains == "all" or (not domains and not default):
        return found
    names = domains.split(",") if domains else [name for name in default if name in found]
    missing = sorted(set(names) - set(found))
    if missing or not names:
        raise DataError(f"{data} holds no domain {', '.join(missing)}; it has {', '.join(found)}")
    return names


def ordered_domains(data: Path) -> list[str]:
    """Those of all domains that have an order in time, by name."""
    return [name for name in chosen_domains(data, "all") if name not in UNORDERED]


def load_domain(data: Path, name: str) -> Dataset:
    """The data set of a domain, without the times that are none; every row is a choice, as all figures have it."""
    interactions, items = read_dataset(data / name / "interactions.parquet", data / name / "items.parquet")
    left_out = [*SIGNAL_COLUMNS, *([TIMESTAMP] if name in UNORDERED else [])]
    return Dataset(interactions=interactions.drop(columns=left_out, errors="ignore"), items=items, domain=name)


def folds_left(datasets: Iterable[Dataset], cut: Callable[[Dataset], Fold], split: str) -> list[Fold]:
    """`cut` of the domains that the split leaves a test fold; the others are named on stderr."""
    folds: list[Fold] = []
    for data in datasets:
        try:
            folds.append(cut(data))
        except DataError as error:  # an empty test fold, or no order in time
            typer.echo(f"{data.domain}: left out of {split}: {error}", err=True)
    return folds
