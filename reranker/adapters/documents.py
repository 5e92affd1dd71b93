"""Ranking of what retrievers found: documents without any text come last instead of failing the list."""

from collections.abc import Mapping, Sequence

from reranker.pipeline.reranker import Reranker
from reranker.prompting.text import is_blank


def ranked(
    reranker: Reranker,
    query: str,
    documents: Sequence[Mapping[str, object]],
    history: Sequence[str] = (),
    max_tokens_per_doc: int | None = None,
) -> list[tuple[int, float]]:
    """(position, chance of relevance) of each document, best first; 0 for one without any text.

    Args:
        reranker: fitted or not; see `Reranker.rank`.
        query: what is asked for.
        documents: `title` and `text` of each, either of which may be missing.
        history: titles chosen before, oldest first.
        max_tokens_per_doc: read of a document.
    """
    full = [
        number for number, one in enumerate(documents) if not all(is_blank(str(value or "")) for value in one.values())
    ]
    found = reranker.rank(
        query, [documents[number] for number in full], history=history, max_tokens_per_doc=max_tokens_per_doc
    )
    empty = sorted(set(range(len(documents))) - set(full))
    return [(full[one.index], one.relevance) for one in found] + [(number, 0.0) for number in empty]
