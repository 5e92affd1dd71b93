"""Ids of two tables that should be the same: how many are not, and whether they are only written otherwise."""

import itertools
import logging
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Set

import numpy as np
import pandas as pd

from reranker.errors import DataError

logger = logging.getLogger(__name__)

MOST = 0.5
"""More than this share of unknown ids is a mistake and no news."""

_LOOKED_AT = 1000
_SHOWN = 3


def _text(value: Hashable) -> str:
    return str(value)


def _without_point(value: Hashable) -> str:
    return re.sub(r"\.0+$", "", str(value))


def _without_zeros(value: Hashable) -> str:
    return _without_point(value).lstrip("0") or "0"


def _squeezed(value: Hashable) -> str:
    return str(value).strip().casefold()


_FORMS: tuple[tuple[Callable[[Hashable], str], str], ...] = (
    (_text, "one is a number, the other a text; convert them with astype(str)"),
    (
        _without_point,
        "pandas writes whole numbers with a decimal point where some are missing; read ids as texts (dtype=str), or "
        "drop the missing ones and convert with astype(int)",
    ),
    (_without_zeros, "leading zeros were lost on one side; read ids as texts (dtype=str) where they begin"),
    (_squeezed, "they differ in spaces or in upper and lower case"),
)


def require_most_known(known: Collection[Hashable], given: pd.Series, table: str, owner: str) -> int:
    """Refuses a column of ids of which more than half the rows hold one that is not known.

    Args:
        known: ids that there are.
        given: a column of ids; its name is told.
        table: whose column it is.
        owner: where the known ids stand, for instance "the item table".

    Returns:
        How many rows hold an id that is not known.

    Raises:
        DataError: most are unknown; it says so where they are only written otherwise.
    """
    unknown = given[~_is_in(given, known)]
    if len(unknown) > MOST * len(given):
        raise DataError(most_unknown(known, unknown, len(unknown), len(given), f"table {table!r}", owner))
    return len(unknown)


def _is_in(given: pd.Series, known: Iterable[Hashable]) -> "pd.Series[bool]":
    """(rows,) True where the id is known; each different one is looked up once, numbers beyond 64 bits included."""
    there = known if isinstance(known, Set | Mapping) else set(known)
    codes, different = pd.factorize(given.astype(object))
    found = np.array([one in there for one in different.tolist()], dtype=np.bool_)
    return pd.Series(found[codes] if len(codes) else np.zeros(0, dtype=np.bool_), index=given.index)


def refuse_written_otherwise(
    known: Collection[Hashable], given: pd.Series, table: str, owner: str = "what was fitted"
) -> None:
    """Refuses a column of ids of which most are not known, but would be if they were written otherwise.

    Raises:
        DataError: with how.
    """
    unknown = given[~_is_in(given, known)]
    if len(unknown) > MOST * len(given) and written_otherwise(known, unknown.head(_LOOKED_AT).tolist()):
        raise DataError(most_unknown(known, unknown, len(unknown), len(given), f"table {table!r}", owner))


def most_unknown(
    known: Collection[Hashable], examples: Iterable[Hashable], n_unknown: int, rows: int, table: str, owner: str
) -> str:
    """The words of an error about ids of which most are not known.

    Args:
        known: ids that there are.
        examples: some that are not among them.
        n_unknown: rows that hold such.
        rows: all rows.
        table: whose column it is.
        owner: where the known ids stand.
    """
    some = list(dict.fromkeys(examples))[:_LOOKED_AT]
    name = getattr(examples, "name", None) or "id"
    hint = written_otherwise(known, some)
    remedy = hint or (
        f"Known are, for instance, {', '.join(map(repr, list(known)[:_SHOWN]))}. Give tables of the same catalogue, or "
        f"leave these rows out"
    )
    return (
        f"{table}, column {name!r}: {n_unknown} of {rows} rows hold an id that is not in {owner}, for instance "
        f"{', '.join(map(repr, some[:_SHOWN]))}. {remedy}"
    )


def histories_without_list(rows: int, users: int, all_rows: int, all_users: int, examples: Iterable[Hashable]) -> str:
    """The words about newer histories that nothing uses: those of users without a list; "" where all have one.

    Args:
        rows, users: without a list.
        all_rows, all_users: of the histories.
        examples: some of the users.
    """
    if not users:
        return ""
    return (
        f"{users} of {all_users} users of the interactions have no list here, for instance {shown(examples)}: "
        f"{rows} of {all_rows} rows are not used"
    )


def told_without_list(interactions: pd.DataFrame, lists: pd.Series) -> str:
    """`histories_without_list` of a table of interactions beside the users of some lists."""
    users = interactions["user_id"]
    without = users[~_is_in(users, lists)]
    return histories_without_list(len(without), without.nunique(), len(users), users.nunique(), without.unique())


def shown(ids: Iterable[Hashable]) -> str:
    """Some of the ids, for a message."""
    return ", ".join(map(repr, itertools.islice(dict.fromkeys(ids), _SHOWN)))


def written_otherwise(known: Iterable[Hashable], unknown: Collection[Hashable]) -> str | None:
    """How most of the unknown ids are written among the known ones; None where they are not.

    Args:
        known: ids that there are.
        unknown: some that are not among them.
    """
    known = list(known)
    for form, reason in _FORMS:
        there = {form(one): one for one in known}
        found = [(one, there[form(one)]) for one in unknown if form(one) in there]
        if len(found) > MOST * len(unknown):
            mine, theirs = found[0]
            return f"Written otherwise they are known: {mine!r} here is {theirs!r} there ({reason})"
    return None


def of_known_kind(given: pd.Series, known: Collection[Hashable], where: str) -> pd.Series:
    """Whole numbers as texts, where the ids known are texts and some of the numbers are among them; else as they are.

    Args:
        given: a column of ids.
        known: ids that there are, none of them a number.
        where: the table, for the log.
    """
    if not pd.api.types.is_integer_dtype(given):
        return given
    texts = given.astype(str)
    if not _is_in(texts, known).any():
        return given
    logger.warning("%s: the numbers in column %r are read as texts, as these ids are elsewhere", where, given.name)
    return texts
