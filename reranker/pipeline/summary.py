"""What a fitted Reranker is, for people and as JSON: what it learned from, what it serves, what to try next."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from typing import Any

import numpy as np

from reranker.config import RerankerConfig
from reranker.engines.encoder import ENCODER
from reranker.engines.lexical import LEXICAL
from reranker.fusion import FusionModel, InteractionStatistics
from reranker.fusion.guard import METRIC, by_user
from reranker.fusion.judged import JudgedLists
from reranker.fusion.ladder import Ladder
from reranker.protocols import CandidateGenerator

_FEW_USERS = 500
_LOW_RECALL = 0.3
_ORDERS = ("first stage", "baseline", "fused")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Absolute figures of the lists that the guard went by.

    Attributes:
        lists, users: how many lists, of how many users.
        ndcg: order -> mean NDCG@10 of the users; a choice that is not in the list counts as 0.
        recall: mean share of what a user chose that the list holds; None of bundles that an earlier version saved.
    """

    lists: int
    users: int
    ndcg: dict[str, float]
    recall: float | None

    @classmethod
    def of(cls, judged: JudgedLists) -> "Judged":
        """Means of kept lists, one list or more."""
        numbers = judged.user_numbers
        means = [float(by_user(values, numbers).mean()) for values in judged.ndcg.T]
        known = ~np.isnan(judged.recall)
        recall = float(by_user(judged.recall[known], numbers[known]).mean()) if known.any() else None
        return cls(
            lists=len(judged.users),
            users=int(numbers.max()) + 1,
            ndcg=dict(zip(_ORDERS, means, strict=True)),
            recall=recall,
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a fitted Reranker is.

    Attributes:
        domain: its name.
        fitted: when `fit` or a refresh ended, ISO 8601 in UTC; "" where that is not known.
        version: of this package.
        model, engine, scorer: what reads texts, and how.
        generator: the candidate generator's name; "" without one.
        list_length: of the lists that were learned from, at most.
        users, items, interactions: that were learned from; repeats of a user's item count once.
        serves: "first_stage", "baseline" or "fused".
        guard: why, in words.
        judged: figures of the lists that the guard went by; None where none are kept.
        ladder: rungs that were tried, as a table; "" without a ladder.
        new_items: what reading is worth where nobody chose an item yet; "" where that was not judged.
        weights: what the served order goes by, the heaviest first, in words.
        next_steps: what may make it better.
    """

    domain: str
    fitted: str
    version: str
    model: str
    engine: str
    scorer: str
    generator: str
    list_length: int
    users: int
    items: int
    interactions: int
    serves: str
    guard: str
    judged: Judged | None
    ladder: str
    new_items: str
    weights: tuple[str, ...]
    next_steps: tuple[str, ...]

    @classmethod
    def of(
        cls,
        config: RerankerConfig,
        domain: str,
        model: str,
        fusion_model: FusionModel,
        statistics: InteractionStatistics,
        *,
        items: int,
        generator: str = "",
        ladder: Ladder | None = None,
        fitted: datetime | None = None,
    ) -> "Summary":
        """From the parts of a bundle."""
        guard, verdict = fusion_model.guard, fusion_model.new_items_verdict
        judged = Judged.of(fusion_model.judged) if fusion_model.judged and fusion_model.judged.users else None
        head = fusion_model.features if guard.judged == "baseline" else fusion_model.fused
        return cls(
            domain=domain,
            fitted="" if fitted is None else fitted.isoformat(timespec="seconds"),
            version=metadata.version("reranker"),
            model=model,
            engine=config.engine,
            scorer=config.scorer,
            generator=generator,
            list_length=config.n_candidates,
            users=len(statistics.histories),
            items=items,
            interactions=sum(len(history) for history in statistics.histories.values()),
            serves=guard.serve,
            guard=guard.summary(),
            judged=judged,
            ladder="" if ladder is None else ladder.summary(),
            new_items="" if verdict is None else verdict.summary(fusion_model.reads_no_new_items),
            weights=() if guard.serve == "first_stage" else tuple(head.summary(most=6)),
            next_steps=tuple(_next_steps(config, guard.serve, judged, ladder, has_generator=bool(generator))),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of the attributes."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        when = f", fitted {self.fitted}" if self.fitted else ""
        yield f"domain {self.domain!r}{when}, reranker {self.version}"
        yield f"learned from {self.users:,} users, {self.items:,} items, {self.interactions:,} interactions"
        by = {LEXICAL: "words, without a model", ENCODER: f"a sentence encoder, {self.model}"}.get(
            self.engine, self.model
        )
        reads = "reads no texts" if self.scorer == "baseline" else f"reads texts by {by} ({self.scorer})"
        yield f"{reads}; first stage: {self.generator or 'lists of your own'}, lists of {self.list_length}"
        if self.judged is not None:
            yield ""
            yield f"{'order':<12} {METRIC:>8}   on {self.judged.lists:,} lists of {self.judged.users:,} users"
            for name, value in self.judged.ndcg.items():
                mark = "  <- served" if name.replace(" ", "_") == self.serves else ""
                yield f"{name:<12} {value:>8.4f}{mark}"
            if self.judged.recall is not None:
                yield f"{self.judged.recall:.1%} of the choices are in the lists at all; the others count as 0"
        yield ""
        yield self.guard
        yield from (f"  {line}" for line in self.weights)
        yield from (one for one in (self.new_items, self.ladder) if one)
        if self.next_steps:
            yield ""
            yield "what may help:"
            yield from (f"- {one}" for one in self.next_steps)


def generator_name(generator: CandidateGenerator | None) -> str:
    """Its own name, or that of its class; "" without one."""
    return "" if generator is None else str(getattr(generator, "name", type(generator).__name__))


def _next_steps(
    config: RerankerConfig, serves: str, judged: Judged | None, ladder: Ladder | None, has_generator: bool
) -> Iterator[str]:
    """What to try, the likeliest gain first."""
    if judged is not None and judged.recall is not None and judged.recall < _LOW_RECALL:
        how = "another --generator, or longer lists (--n)" if has_generator else "another first stage, or longer lists"
        yield (
            f"better candidates: no order can bring up the {1 - judged.recall:.0%} of the choices that are not in the "
            f"lists; {how}. `reranker evaluate --candidates` and `data candidates` judge what you have"
        )
    if serves != "first_stage":
        return
    if judged is not None and judged.users < _FEW_USERS:
        yield (
            f"more users: on {judged.users} of them small gains cannot be told from chance; more interactions, or more "
            f"choices a user (windows: {config.windows})"
        )
    if not config.features:
        yield "columns of your own, such as price, age or stock of an item: --features"
    if config.scorer == "baseline":
        yield "reading the items' texts: --scorer lexical takes seconds and no model"
    elif ladder is not None and ladder.left_out:
        yield f"what was not tried: {', '.join(ladder.left_out)}"
    yield "gradient-boosted trees in the place of weights: --ranker auto"
    yield "until then nothing is lost: lists come back in the order in which they came in"
