"""What rules after scoring cost on the guard's own windows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from reranker.errors import BundleError
from reranker.fusion.guard import METRIC, Order
from reranker.utils.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class RulesVerdict:
    """The price of rules: NDCG@10 of the served lists under them, against the same lists without.

    Attributes:
        rules: as they were written down.
        order: what is served.
        without, under: NDCG@10; a missed choice counts as 0.
        gain: under the rules minus without them, cross-fitted, by paired bootstrap over users.
        did: what the rules did, in words.
    """

    rules: Mapping[str, Any]
    order: Order
    without: float
    under: float
    gain: Interval
    did: str

    def summary(self) -> str:
        """For people, one line."""
        share = f", {self.gain.mean / self.without:+.1%}" if self.without else ""
        return (
            f"{', '.join(self.rules) or 'no rules'} after scoring: {self.gain} {METRIC} of the {self.order} order "
            f"({self.without:.4f} without, {self.under:.4f} under them{share}) on {self.gain.n} validation users; "
            f"{self.did}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "rules": dict(self.rules),
            "order": self.order,
            "without": self.without,
            "under": self.under,
            "gain": {**self.gain.to_dict(), "n": self.gain.n},
            "did": self.did,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RulesVerdict":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            without, under = float(data["without"]), float(data["under"])
            if data["order"] not in get_args(Order) or not np.isfinite([without, under]).all():
                raise ValueError(f"order {data['order']!r}, NDCG {without} and {under}")
            return cls(
                rules=dict(data["rules"]),
                order=data["order"],
                without=without,
                under=under,
                gain=Interval(**data["gain"]),
                did=str(data["did"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"rules: not what this version writes ({error!r}); fit the bundle again") from error
