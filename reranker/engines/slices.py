"""Engine calls cut into slices, so that whoever owns the engine's thread can look up between two of them."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from reranker.errors import EngineError
from reranker.types import ScoringRequest, SpanScores

Result = TypeVar("Result")
Value = TypeVar("Value")


class AbandonedError(EngineError):
    """Nobody waits for the result any more."""


_LEAST, _MOST = 64, 1 << 20  # tokens of a slice


@dataclass(eq=False)
class Slicing:
    """How calls are cut.

    Attributes:
        tokens: of a slice, about; a candidate is never cut.
        seconds: that a slice may take: `tokens` follow what was measured; 0 leaves them as they are.
        between: called before each slice but the first, and in `in_turns`; raises to end the work.
    """

    tokens: int
    seconds: float
    between: Callable[[], None] = lambda: None
    _turned: float = -math.inf  # when `between` was called last

    def turn(self) -> None:
        """Lets others in."""
        self.between()
        self._turned = time.perf_counter()

    def pause(self) -> None:
        """Lets others in, if a slice's time has passed since the last time."""
        if time.perf_counter() - self._turned >= self.seconds:
            self.turn()

    def measured(self, tokens: int, seconds: float) -> None:
        """Fits `tokens` to a slice that took so long, at most doubling or halving them."""
        if self.seconds:
            wanted = tokens * self.seconds / max(seconds, 1e-6)
            self.tokens = int(min(max(wanted, self.tokens / 2, _LEAST), self.tokens * 2, _MOST))


_SLICING: ContextVar[Slicing | None] = ContextVar("reranker_slicing", default=None)


@contextmanager
def sliced(slicing: Slicing | None) -> Iterator[None]:
    """Cuts the engine calls of this thread inside the block; None leaves them whole."""
    token = _SLICING.set(slicing)
    try:
        yield
    finally:
        _SLICING.reset(token)


def in_turns(values: Iterable[Value]) -> Iterator[Value]:
    """The values; where `sliced` asks for it, others are let in between two of them. For long work before the engine's.

    Raises:
        AbandonedError: nobody waits for the results any more.
    """
    slicing = _SLICING.get()
    for number, value in enumerate(values):
        if number and slicing is not None:
            slicing.pause()
        yield value


def in_slices(
    call: Callable[[Sequence[ScoringRequest]], list[Result]], requests: Sequence[ScoringRequest]
) -> list[Any]:
    """`call(requests)`, in slices where `sliced` asks for it: candidates do not read each other, so that the results
    are those of the whole call.

    Args:
        call: gives a `SpanScores`, or an array with a row a candidate, for each request.
        requests: with any number of candidates.

    Raises:
        AbandonedError: nobody waits for the results any more.
    """
    slicing = _SLICING.get()
    if slicing is None:
        return call(requests)
    parts: list[list[Any]] = [[] for _ in requests]
    for number, group in enumerate(_groups(requests, slicing)):
        if number:
            slicing.turn()
        began = time.perf_counter()
        results = call([part for _, part in group])
        slicing.measured(sum(part.tokens for _, part in group), time.perf_counter() - began)
        for (place, _), result in zip(group, results, strict=True):
            parts[place].append(result)
    return [_joined(part) for part in parts]


def _groups(requests: Sequence[ScoringRequest], slicing: Slicing) -> Iterator[list[tuple[int, ScoringRequest]]]:
    """Slices of (place of the request, some of its candidates with its prefix)."""
    group: list[tuple[int, ScoringRequest]] = []
    size = 0
    for place, request in enumerate(requests):
        begin, own = 0, len(request.prefix)
        for end, candidate in enumerate(request.candidates):
            if size + own + len(candidate.sequence) > slicing.tokens and (group or end > begin):
                if end > begin:
                    group.append((place, _part(request, begin, end)))
                yield group
                group, size, own, begin = [], 0, len(request.prefix), end
            own += len(candidate.sequence)
        group.append((place, _part(request, begin, len(request.candidates))))
        size += own
    if group:
        yield group


def _part(request: ScoringRequest, begin: int, end: int) -> ScoringRequest:
    return ScoringRequest(prefix=request.prefix, candidates=tuple(request.candidates[begin:end]))


def _joined(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], SpanScores):
        sums, counts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("sums", "counts"))
        return SpanScores(sums=sums, counts=counts)
    return np.concatenate(parts)
