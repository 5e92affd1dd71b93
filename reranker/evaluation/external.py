"""Rankers that run elsewhere: their lists go out as tables, their scores come back as one."""

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import ITEM, RANK, SCORE, USER, validate_candidates
from reranker.data.table_io import like_known, read_table, write_table
from reranker.errors import ConfigError, DataError
from reranker.evaluation.base import System
from reranker.evaluation.runner import SystemFactory
from reranker.pipeline.lists import FoldLists


class ExternalScores:
    """Scores from a table `user_id, item_id, score`; rows about other pairs are ignored.

    Args:
        name: the system's name in results.
        scores: the table; every candidate needs a row in it.
        path: what it was read from, if it was: a CSV does not say whether its ids are numbers or texts.

    Raises:
        DataError: a missing column, duplicates, or a score that is not finite.
    """

    stochastic = False

    def __init__(self, name: str, scores: pd.DataFrame, path: Path | None = None) -> None:
        self.name = name
        if SCORE not in scores:
            raise DataError(f"external system {name!r}: its table needs a {SCORE!r} column, it has {list(scores)}")
        table = validate_candidates(scores.drop(columns=RANK, errors="ignore"), name)
        self._scores, self._path = table[[USER, ITEM, SCORE]], path
        self.fingerprint = hashlib.sha256(pd.util.hash_pandas_object(self._scores).to_numpy().tobytes()).hexdigest()

    @classmethod
    def read(cls, name: str, path: Path) -> "ExternalScores":
        """From a parquet or csv file."""
        return cls(name, read_table(path), path)

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        """Nothing is learned here."""
        return self

    def score(self, lists: FoldLists) -> NDArray[np.float64]:
        """(rows,) the table's scores.

        Raises:
            DataError: candidates without a score; the message counts them and names the first.
        """
        pairs = pd.MultiIndex.from_frame(lists.candidates[[USER, ITEM]])
        table = self._scores
        if self._path is not None:
            table = like_known(table, self._path, {name: lists.candidates[name] for name in (USER, ITEM)})
        scores = table.set_index([USER, ITEM])[SCORE].reindex(pairs).to_numpy(dtype=np.float64)
        missing = np.flatnonzero(np.isnan(scores))
        if len(missing):
            user, item = pairs[missing[0]]
            raise DataError(
                f"external system {self.name!r}: {len(missing)} of {len(scores)} candidates have no score, first user "
                f"{user!r}, item {item!r}. Score every row of the exported candidates, with ids of the same type"
            )
        return scores


class ExternalDomains:
    """One external system in several domains, a table of scores each; other domains are left out.

    Args:
        parts: domain -> its scores; all of one name.
    """

    stochastic = False

    def __init__(self, parts: Mapping[str, ExternalScores]) -> None:
        (self.name,) = {part.name for part in parts.values()}
        self.domains = frozenset(parts)
        self.fingerprint = "|".join(f"{domain}={part.fingerprint}" for domain, part in sorted(parts.items()))
        self._parts = parts

    @classmethod
    def read(cls, name: str, folder: Path, domains: Sequence[str]) -> "ExternalDomains":
        """From folder/<domain>.parquet, for those of the domains that have one.

        Raises:
            DataError: none of them has.
        """
        found = {domain: folder / f"{domain}.parquet" for domain in domains}
        parts = {domain: ExternalScores.read(name, path) for domain, path in found.items() if path.exists()}
        if not parts:
            raise DataError(f"external system {name!r}: {folder} holds no table for any of {', '.join(domains)}")
        return cls(parts)

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        """Nothing is learned here."""
        return self

    def score(self, lists: FoldLists) -> NDArray[np.float64]:
        """(rows,) the scores of the lists' domain.

        Raises:
            DataError: another domain, or candidates without a score.
        """
        if lists.fold.domain not in self._parts:
            raise DataError(f"external system {self.name!r} has no scores in domain {lists.fold.domain!r}")
        return self._parts[lists.fold.domain].score(lists)


def constant(system: System) -> SystemFactory:
    """The factory of a system that no seed changes."""
    return lambda seed: system


def read_external(argument: str, domains: Sequence[str] = ()) -> ExternalScores | ExternalDomains:
    """From "name=scores.parquet", or "name=folder" with folder/<domain>.parquet for several domains.

    Args:
        domains: the domains to look for in a folder; without any, a folder is read as one table in parts.

    Raises:
        ConfigError: not of that form.
        DataError: the file cannot be read, or is not a table of scores.
    """
    name, _, path = argument.partition("=")
    if not name or not path:
        raise ConfigError(f"an external system is given as name=scores.parquet, got {argument!r}")
    if domains and Path(path).is_dir():
        return ExternalDomains.read(name, Path(path), domains)
    return ExternalScores.read(name, Path(path))


def external_factories(
    arguments: Iterable[str], taken: Container[str], domains: Sequence[str] = ()
) -> dict[str, SystemFactory]:
    """Name -> factory of the systems given as `read_external` takes them.

    Raises:
        ConfigError: a name is taken or given twice.
        DataError: as `read_external`.
    """
    factories: dict[str, SystemFactory] = {}
    for argument in arguments:
        system = read_external(argument, domains)
        if system.name in taken or system.name in factories:
            raise ConfigError(f"an external system cannot be called {system.name!r}: the name is taken")
        factories[system.name] = constant(system)
    return factories


def export_lists(lists: FoldLists, out: Path) -> None:
    """Writes train.parquet, items.parquet and candidates.parquet: all that another ranker may see, and no answers."""
    out.mkdir(parents=True, exist_ok=True)
    write_table(lists.fold.train, out / "train.parquet")
    write_table(lists.fold.items, out / "items.parquet")
    write_table(lists.candidates, out / "candidates.parquet")
