"""Names that other tools give to our columns, for errors and warnings that say which one is meant."""

import difflib
from collections.abc import Iterable, Sequence

_OTHERS = {
    "user_id": [
        "userid", "user", "uid", "customer_id", "customer", "visitorid", "reviewerid", "account_id", "member_id",
    ],
    "item_id": [
        "itemid", "item", "iid", "product_id", "productid", "movieid", "movie_id", "asin", "parent_asin", "sku",
        "article_id", "book_id", "song_id", "track_id", "business_id",
    ],
    "timestamp": [
        "ts", "time", "date", "event_time", "eventtime", "created_at", "unixreviewtime", "unix_time", "t", "day", "at",
        "event_timestamp", "timestamp_ms", "order_date", "purchase_date", "invoicedate",
    ],
    "title": ["name", "item_name", "product_name", "product_title", "movie_title", "itemname"],
    "score": ["prediction", "pred", "predicted", "similarity", "relevance", "scores"],
    "rank": ["position", "pos", "place"],
}  # fmt: skip


def likely(column: str, present: Iterable[str]) -> str | None:
    """The column of a table that most likely is what we call `column`; None where none looks like it.

    Args:
        column: our name.
        present: names that the table has.
    """
    plain = {_plain(name): name for name in reversed(list(map(str, present)))}
    for other in (column, *_OTHERS.get(column, ())):
        if (found := plain.get(_plain(other))) is not None:
            return found
    near = difflib.get_close_matches(_plain(column), plain, n=1, cutoff=0.85)
    return plain[near[0]] if near else None


def meant(missing: Sequence[str], present: Iterable[str]) -> str:
    """A sentence about columns that are likely meant, such as " 'userId' may be user_id."; "" where none is."""
    names = list(present)
    found = {column: name for column in missing if (name := likely(column, names)) is not None}
    return "".join(f" {name!r} may be {column}." for column, name in found.items())


def _plain(name: str) -> str:
    """ "userId" and "user_id" as one."""
    return name.lower().replace("_", "").replace(" ", "").replace("-", "").replace(".", "")
