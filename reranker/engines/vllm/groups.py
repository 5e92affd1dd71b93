"""Which lists are read together."""

from collections.abc import Iterator, Sequence

from reranker.types import ScoringRequest, TokenSequence


def grouped(requests: Sequence[ScoringRequest], vectors: int, tokens: int, most: int) -> Iterator[list[ScoringRequest]]:
    """Requests in order, as many at once as there is room for; one that takes more than that stands alone.

    Args:
        requests: lists.
        vectors: that fit.
        tokens: of prefixes, that fit.
        most: lists.
    """
    group: list[ScoringRequest] = []
    taken = read = 0
    for request in requests:
        more = sum(len(sequence.vectors) for sequence in sequences(request))
        if group and (taken + more > vectors or read + len(request.prefix) > tokens or len(group) == most):
            yield group
            group, taken, read = [], 0, 0
        group.append(request)
        taken += more
        read += len(request.prefix)
    if group:
        yield group


def sequences(request: ScoringRequest) -> list[TokenSequence]:
    """All parts of a list."""
    return [request.prefix, *(candidate.sequence for candidate in request.candidates)]
