"""An explained list: records, a table for an engineer, sentences for the person who sees the list."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reranker.explain.contributions import GROUPS
from reranker.explain.sentences import Language, sentence
from reranker.explain.tokens import TokenAttribution, told
from reranker.prompting import clean_text
from reranker.types import ItemId, UserId

_TOKENS = 8  # shown a candidate


@dataclass(frozen=True, kw_only=True)
class HistoryEffect:
    """What one item of the history does to a candidate.

    Attributes:
        item_id, title: of the user's history.
        position: in the history, 0 is the oldest.
        effect: score with it minus score without it, log-odds against the list's mean.
    """

    item_id: ItemId
    title: str
    position: int
    effect: float


@dataclass(frozen=True, kw_only=True)
class ItemExplanation:
    """Why one candidate stands where it does.

    Attributes:
        item_id, title: of the candidate.
        rank, first_stage_rank: places in the list that is served and in the one that came in; 1 is best.
        score: as served; log-odds, or what came in where the first-stage order is served.
        contributions: group of columns -> log-odds; they sum to `score` minus the list's mean.
        columns: the same column by column.
        history: effects of items of the history, strongest first.
        tokens: which tokens of the prompt make its title likely, where that was asked for.
    """

    item_id: ItemId
    title: str
    rank: int
    first_stage_rank: int
    score: float
    contributions: dict[str, float]
    columns: dict[str, float]
    history: tuple[HistoryEffect, ...]
    tokens: TokenAttribution | None = None

    def sentence(self, language: Language = "en", domain: str = "") -> str:
        """For the person who sees the list: "Because you watched X and Y", or "You watched it before"."""
        others = [(one.title, one.effect) for one in self.history if one.item_id != self.item_id]
        itself = [one.effect for one in self.history if one.item_id == self.item_id]
        return sentence(self.contributions, others, language, domain, max(itself, default=None))


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One user's ranked list, explained.

    Attributes:
        user_id: whose.
        domain: of the bundle.
        order: which order is served: what the contributions explain.
        mean: the list's mean score.
        guard: what the guard decided, in words.
        items: best first.
        history_known: items of the history.
        history_used: the newest of them, which were left out one by one.
    """

    user_id: UserId
    domain: str
    order: str
    mean: float
    guard: str
    items: tuple[ItemExplanation, ...]
    history_known: int
    history_used: int

    @property
    def groups(self) -> list[str]:
        """Groups of columns that the head has, in the order of `GROUPS`."""
        return [one for one in GROUPS if self.items and one in self.items[0].contributions]

    def sentences(self, language: Language = "en") -> list[str]:
        """One a candidate, best first."""
        return [one.sentence(language, self.domain) for one in self.items]

    def table(self, history: int = 3) -> str:
        """For an engineer: a row a candidate, contributions by group, and the strongest effects of the history.

        Args:
            history: effects shown a candidate.
        """
        head = ["rank", "came in", "score", "- mean", *self.groups, "item"]
        rows = [
            [
                str(one.rank),
                str(one.first_stage_rank),
                f"{one.score:.3f}",
                f"{one.score - self.mean:+.3f}",
                *(f"{one.contributions[group]:+.3f}" for group in self.groups),
                f"{clean_text(one.title)}{_moved_by(one.history[:history])}",
            ]
            for one in self.items
        ]
        widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head) - 1)]
        lines = [
            "  ".join([*(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]])
            for row in [head, *rows]
        ]
        used = f"{self.history_used} of {self.history_known} items of the history were left out one by one"
        of_tokens = [
            f"tokens of {one.rank} {clean_text(one.title)}: {told(one.tokens, _TOKENS)}"
            for one in self.items
            if one.tokens is not None
        ]
        return "\n".join([*lines, f"served: {self.order}; {used}", *of_tokens])

    def record(self, language: Language = "en") -> dict[str, Any]:
        """As JSON: contributions, effects and sentences."""
        return {
            "order": self.order,
            "mean": self.mean,
            "history_known": self.history_known,
            "history_used": self.history_used,
            "items": [
                {
                    "item_id": one.item_id,
                    "above_mean": one.score - self.mean,
                    "contributions": one.contributions,
                    "history": [
                        {"item_id": effect.item_id, "title": effect.title, "effect": effect.effect}
                        for effect in one.history
                    ],
                    "sentence": one.sentence(language, self.domain),
                    **({} if one.tokens is None else {"tokens": one.tokens.record()}),
                }
                for one in self.items
            ],
        }

    def __str__(self) -> str:
        return self.table()


def _moved_by(effects: Sequence[HistoryEffect]) -> str:
    shown = ", ".join(f"{one.effect:+.2f} {clean_text(one.title)}" for one in effects if one.effect)
    return f"  ({shown})" if shown else ""
