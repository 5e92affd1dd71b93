"""What of a data set nothing reads, and what is made of its events and ratings: it is said, so that nobody guesses."""

from collections.abc import Iterable

from reranker.data.dataset import Dataset
from reranker.data.schema import CATEGORY, ITEM, TITLE
from reranker.data.signals import told
from reranker.pipeline.llm_scorer import LLMScorer

_ALWAYS = frozenset({ITEM, TITLE, CATEGORY})  # categories are compared without a model


def unread(data: Dataset, scorer: LLMScorer) -> list[str]:
    """A line for each kind of thing in the tables that nothing goes by, and what signals count for; none without such.

    Args:
        data: that is fitted.
        scorer: whose templates read the items' texts.
    """
    lines = []
    if data.unused_columns:
        lines.append(f"columns of the interactions that were not used: {', '.join(data.unused_columns)}")
    lines += told(data.interactions, data.signals)
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
