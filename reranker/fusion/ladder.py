"""What each rung of the ladder is worth on the data: first stage, features, words, LM; a dearer one has to earn it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError
from reranker.utils.statistics import Interval, mean_interval

METRIC = "NDCG@10"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung, judged on the windows of `fit` with cross-fitted weights.

    Attributes:
        name: "first stage", "baseline", "lexical", "encoder" or "llm".
        ndcg: mean NDCG@10 of the users; a user whose item the first stage missed counts as 0.
        gain: of NDCG@10 over the best cheaper rung by paired bootstrap over users; None on the lowest.
        over: that cheaper rung; "" on the lowest.
        seconds: what fitting it took, without windows and statistics, which all share.
        items_per_second: of the catalogue in that time; 0 where no texts are read.
    """

    name: str
    ndcg: float
    gain: Interval | None = None
    over: str = ""
    seconds: float = 0.0
    items_per_second: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Rungs from the cheapest up, and the one that is served.

    Attributes:
        rungs: each compared with the best cheaper one.
        serves: the dearest rung whose interval over the best cheaper one lies above 0; else the lowest.
        left_out: rung -> why it was not tried.
        new_items: the same on pages of items that were new by pretence, from the interaction features up; None where
            there were too few.
    """

    rungs: tuple[Rung, ...]
    serves: str
    left_out: Mapping[str, str]
    new_items: "Ladder | None" = None

    @property
    def served(self) -> str:
        """The dearer of the rungs that known and new items are served by; that of known ones where nothing pays for new
        ones over their lowest rung, which is served for nothing else."""
        if self.new_items is None or self.new_items.serves == self.new_items.rungs[0].name:
            return self.serves
        return max(self.serves, self.new_items.serves, key=[rung.name for rung in self.rungs].index)

    @classmethod
    def of(
        cls,
        scores: Mapping[str, NDArray[np.float64]],
        seconds: Mapping[str, float],
        n_items: int,
        left_out: Mapping[str, str] | None = None,
        seed: int = 0,
        new_items: "Ladder | None" = None,
    ) -> "Ladder":
        """Judges rungs, cheapest first.

        Args:
            scores: rung -> (n_users,) NDCG@10, users aligned between rungs.
            seconds: rung -> what fitting it took; rungs without an entry read no texts.
            n_items: size of the catalogue.
            left_out: rung -> why it was not tried.
            seed: of the bootstrap.
            new_items: the ladder of the same rungs on pages of new items.
        """
        rungs: list[Rung] = []
        best = next(iter(scores))
        for name, values in scores.items():
            took = seconds.get(name, 0.0)
            gain = mean_interval(values - scores[best], seed=seed) if rungs else None
            rungs.append(
                Rung(
                    name=name,
                    ndcg=float(values.mean()),
                    gain=gain,
                    over=best if rungs else "",
                    seconds=took,
                    items_per_second=n_items / took if took else 0.0,
                )
            )
            if gain is not None and gain.low > 0:
                best = name
        return cls(rungs=tuple(rungs), serves=best, left_out=dict(left_out or {}), new_items=new_items)

    def summary(self) -> str:
        """A table of the rungs, one of new items behind it, and what is served, for people."""
        lines = self._table()
        if self.new_items is not None:
            of_new = self.new_items
            lines += [f"pages of items that were new by pretence, {of_new.n_users} users:", *of_new._table()[1:]]
        lines += [f"{name} was left out: {why}" for name, why in self.left_out.items()]
        if any(rung.name == "llm" for rung in self.rungs) and self.served != "llm":
            lines.append("the LLM does not pay on this data: what is cheaper ranks as well (fit --scorer llm insists)")
        if self.served != self.serves:
            lines.append(f"{self.served} pays for new items alone: known ones are ranked as well by what is cheaper")
        return "\n".join(lines)

    @property
    def n_users(self) -> int:
        """Users that rungs were judged on."""
        return next((rung.gain.n for rung in self.rungs if rung.gain is not None), 0)

    def _table(self) -> list[str]:
        lines = [f"{'rung':<12} {METRIC:>8}  {'over the best cheaper rung':<44} {'fit':>8} {'items/s':>8}"]
        for rung in self.rungs:
            gain = "" if rung.gain is None else f"{rung.gain} over {rung.over}"
            took = f"{rung.seconds:.0f} s" if rung.seconds else ""
            rate = f"{rung.items_per_second:.0f}" if rung.items_per_second else ""
            mark = "  <- served" if rung.name == self.serves else ""
            lines.append(f"{rung.name:<12} {rung.ndcg:>8.4f}  {gain:<44} {took:>8} {rate:>8}{mark}")
        return lines

    def to_json(self) -> dict[str, Any]:
        rungs = [
            {
                "name": rung.name,
                "ndcg": rung.ndcg,
                "gain": None if rung.gain is None else {**rung.gain.to_dict(), "n": rung.gain.n},
                "over": rung.over,
                "seconds": rung.seconds,
                "items_per_second": rung.items_per_second,
            }
            for rung in self.rungs
        ]
        return {
            "serves": self.serves,
            "rungs": rungs,
            "left_out": dict(self.left_out),
            **({} if self.new_items is None else {"new_items": self.new_items.to_json()}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Ladder":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            rungs: Sequence[Mapping[str, Any]] = data["rungs"]
            return cls(
                rungs=tuple(
                    Rung(**{**rung, "gain": None if rung["gain"] is None else Interval(**rung["gain"])})
                    for rung in rungs
                ),
                serves=str(data["serves"]),
                left_out=dict(data["left_out"]),
                new_items=cls.from_json(data["new_items"]) if "new_items" in data else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"ladder: not what this version writes ({error!r}); fit the bundle again") from error
