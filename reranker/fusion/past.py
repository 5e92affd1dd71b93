"""Choices that are no longer at hand: their log-likelihood to second order, by which weights are updated daily.

Around the weights w0 that were fitted, the log-likelihood of past choices is L(w0) + g·d - d·H·d / 2 with d = w - w0,
gradient g and Fisher information H (Laplace's approximation; Spiegelhalter & Lauritzen 1990). Adding that to the
log-likelihood of new choices gives, within the approximation, the weights of a fit on both.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PastChoices:
    """The log-likelihood of past choices as a function of a head's weights.

    Attributes:
        weights: (n,) around which it is expanded.
        gradient: (n,) of the log-likelihood there; it is the pull of the ridge that was in balance with it.
        information: (n, n) minus its second derivative, positive semi-definite.
        l2: the ridge under which the weights were fitted.
        n_choices: how many choices it stands for; after `faded`, fewer than there were.
    """

    weights: Floats
    gradient: Floats
    information: Floats
    l2: float
    n_choices: float

    def log_likelihood(self, weights: Floats) -> tuple[float, Floats]:
        """Difference from that at `self.weights`, and its (n,) gradient."""
        off = weights - self.weights
        pull = self.information @ off
        return float(self.gradient @ off - 0.5 * off @ pull), self.gradient - pull

    def faded(self, share: float) -> "PastChoices":
        """The same counting as `share` of the choices: what is old tells less of today."""
        return replace(
            self,
            gradient=share * self.gradient,
            information=share * self.information,
            n_choices=share * self.n_choices,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "weights": self.weights.tolist(),
            "gradient": self.gradient.tolist(),
            "information": self.information.tolist(),
            "l2": self.l2,
            "n_choices": self.n_choices,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], n: int) -> "PastChoices":
        """Reads what `to_json` wrote, of a head with n columns.

        Raises:
            BundleError: a field is missing, of another shape or not finite.
        """
        try:
            past = cls(
                weights=np.asarray(data["weights"], dtype=np.float64),
                gradient=np.asarray(data["gradient"], dtype=np.float64),
                information=np.asarray(data["information"], dtype=np.float64),
                l2=float(data["l2"]),
                n_choices=float(data["n_choices"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"past choices: not what this version writes ({error!r}); fit the bundle again"
            ) from error
        shapes = (past.weights.shape, past.gradient.shape, past.information.shape)
        parts = (past.weights, past.gradient, past.information, np.array([past.l2, past.n_choices]))
        if shapes != ((n,), (n,), (n, n)) or not all(np.isfinite(part).all() for part in parts):
            raise BundleError(f"past choices: shapes {shapes} for {n} columns, or not finite; fit the bundle again")
        return past
