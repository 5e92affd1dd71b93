"""What of a data set nothing reads: it is said, so that nobody waits for it to count."""

from collections.abc import Iterable

from reranker.data.dataset import Dataset
from reranker.data.schema import CATEGORY, ITEM, TITLE, WEIGHT
from reranker.pipeline.llm_scorer import LLMScorer

_ALWAYS = frozenset({ITEM, TITLE, CATEGORY})  # categories are compared without a model


def unread(data: Dataset, scorer: LLMScorer) -> list[str]:
    """A line for each kind of thing in the tables that nothing goes by; none where all is used.

    Args:
        data: that is fitted.
        scorer: whose templates read the items' texts.
    """
    lines = []
    if data.unused_columns:
        lines.append(f"columns of the interactions that were not used: {', '.join(data.unused_columns)}")
    if said := unweighted(data):
        lines.append(said)
    if columns := unread_columns(data.items.columns.astype(str), scorer):
        lines.append(f"columns of the items that are not read: {', '.join(columns)}")
    return lines


def unread_columns(columns: Iterable[str], scorer: LLMScorer) -> list[str]:
    """Those of the items table that neither the templates nor the features read; none where that cannot be told."""
    read = scorer.item_fields
    if read is None:
        return []
    asked = {name.removeprefix("items.") for name in scorer.config.features}
    return [name for name in columns if name not in read | _ALWAYS | asked]


def unweighted(data: Dataset) -> str:
    """That weights change nothing, and how many of them look as if they were to; "" for a table without weights."""
    if WEIGHT not in data.interactions:
        return ""
    weights = data.interactions[WEIGHT]
    said = "weights (ratings) of the interactions are not used: every row counts as a choice"
    low = int((weights <= 0).sum())
    return (
        f"{said}, also the {low} of {len(weights)} with a weight of 0 or less: leave out what is no choice"
        if low
        else said
    )
