"""What a renderer hands out: the request for the engine, and a description of it for people."""

from dataclasses import dataclass
from typing import Literal

from reranker.errors import PromptError
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence

SpanKind = Literal["opening", "domain_tokens", "instruction", "padding", "user_tokens", "history", "query"]


@dataclass(frozen=True, kw_only=True)
class PromptSpan:
    """One stretch of the shared prefix.

    Attributes:
        kind: what stands there.
        start: first position in the prefix.
        end: one past the last position.
        text: the text as rendered; for soft tokens a description such as "[16 soft tokens]".
    """

    kind: SpanKind
    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderedPrompt:
    """A request and how it came about.

    Attributes:
        request: what the engine scores. Candidate spans are in the order of the candidates given.
        spans: the shared prefix from its first to its last position, without gaps.
        candidate_texts: text of each candidate span; one for all candidates in the listwise scorer.
        history_given: items in the history that was passed in.
        history_kept: newest items of it that are in the prompt.
    """

    request: ScoringRequest
    spans: tuple[PromptSpan, ...]
    candidate_texts: tuple[str, ...]
    history_given: int
    history_kept: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemTexts:
    """Items by themselves, as the embedding scorer reads them.

    Attributes:
        prefix: what stands before each of them.
        parts: (n_items, n_parts) spans of title, category and description. Each holds those before it, too; its scored
            tokens follow those of the part alone. None where an item has no such part; all have a title.
    """

    prefix: TokenSequence
    parts: tuple[tuple[CandidateSpan | None, ...], ...]

    @property
    def longest(self) -> tuple[CandidateSpan, ...]:
        """(n_items,) the spans that hold all that is read of each item."""
        return tuple([span for span in parts if span is not None][-1] for parts in self.parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A piece of a prompt that is being put together: what it is, its text and its tokens."""

    kind: SpanKind
    text: str
    tokens: TokenSequence


def lay_out(parts: list[Part]) -> tuple[TokenSequence, tuple[PromptSpan, ...]]:
    """The prefix made of `parts`, and its spans; neighbours of one kind become one span, empty parts vanish."""
    widths = {part.tokens.vectors.shape[1] for part in parts if not part.tokens.is_plain}
    if len(widths) > 1:
        raise PromptError(f"soft tokens and item vectors of one prompt have different widths: {sorted(widths)}")
    spans: list[PromptSpan] = []
    start = 0
    for part in parts:
        end = start + len(part.tokens)
        if end == start:
            continue
        if spans and spans[-1].kind == part.kind:
            last = spans.pop()
            spans.append(PromptSpan(kind=part.kind, start=last.start, end=end, text=last.text + part.text))
        else:
            spans.append(PromptSpan(kind=part.kind, start=start, end=end, text=part.text))
        start = end
    return TokenSequence.concatenate([part.tokens for part in parts]), tuple(spans)
