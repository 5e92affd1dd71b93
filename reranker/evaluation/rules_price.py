"""The price of rules: NDCG@10 of a system's lists under them, against the same lists without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reranker.evaluation.runner import Results, Run
from reranker.pipeline.pricing import under_rules
from reranker.rules import ItemColumns, Rules, RulesReport
from reranker.utils.statistics import Interval, mean_interval


@dataclass(frozen=True, kw_only=True)
class RulesPrice:
    """What rules cost a system on one domain's test users; a missed target counts as 0.

    Attributes:
        domain, system: whose lists.
        without, under: NDCG@10.
        gain: under the rules minus without them, by paired bootstrap over users.
        report: what the rules did.
    """

    domain: str
    system: str
    without: float
    under: float
    gain: Interval
    report: RulesReport

    def to_json(self) -> dict[str, Any]:
        return {
            "domain": self.domain,
            "system": self.system,
            "without": self.without,
            "under": self.under,
            "gain": {**self.gain.to_dict(), "n": self.gain.n},
            "report": self.report.to_json(),
        }


def rules_prices(results: Results, rules: Rules) -> list[RulesPrice]:
    """The price for every system, with its first seed and the first list length.

    Raises:
        ConfigError: the rules are about columns that the item table lacks.
    """
    first = [
        run
        for run in results.runs
        if run.seed == results.settings.seeds[0] and run.lists.n == results.settings.candidates[0]
    ]
    return [_price(run, rules) for run in first]


def _price(run: Run, rules: Rules) -> RulesPrice:
    lists = run.lists
    without, under, report = under_rules(lists, run.scores, rules, ItemColumns(lists.fold.items))
    return RulesPrice(
        domain=lists.fold.domain,
        system=run.system,
        without=float(without.mean()),
        under=float(under.mean()),
        gain=mean_interval(under - without),
        report=report,
    )


def price_table(prices: Sequence[RulesPrice]) -> str:
    """The prices as Markdown, and under it what the rules did."""
    rows = [
        {
            "domain": one.domain,
            "system": one.system,
            "NDCG@10": f"{one.without:.4f}",
            "under the rules": f"{one.under:.4f}",
            "difference": str(one.gain),
            "in %": f"{one.gain.mean / one.without:+.1%}" if one.without else "",
        }
        for one in prices
    ]
    table = pd.DataFrame(rows)
    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    lines += ["| " + " | ".join(values) + " |" for values in table.to_numpy().tolist()]
    return "\n".join([*lines, *(f"{one.system}: {one.report.summary()}" for one in prices)])
