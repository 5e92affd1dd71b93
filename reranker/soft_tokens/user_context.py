"""From a user's context vector to soft tokens.

Only the context vector z is adapted to a user, and only z is kept of them (CAVIA, Zintgraf et al. 2019). It starts from
the text of the user's history by a linear map, moves by a few gradient steps with a step size for each coordinate, and
is shrunk towards 0, a new user's context, as long as little is known.

The start is read off the text, not off the candidate generator's user factors: two fits of a factor model differ by a
rotation, so a map learned over one fit says nothing about the next, let alone about another domain.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reranker.errors import PromptError
from reranker.types import ModelInfo, TokenSequence, UserState
from reranker.utils.safetensors_io import read_tensors, require_base_model, write_tensors

CONTEXT_FILE = "context.safetensors"
MAX_DIM = 64

SUPPORT_ITEMS = 32
"""Newest interactions that a context is adapted on."""

_WHAT = "context map"
_TENSORS = ("base", "directions", "amortise", "rates", "log_shrinkage")


@dataclass(frozen=True, kw_only=True, eq=False)
class ContextMap:
    """tokens = base + Σ_i n/(n+τ) · z_i · directions_i, for a user with n interactions.

    Attributes:
        base: (k, dim) float32, the tokens of a new user.
        directions: (d, k, dim) float32, d <= 64.
        amortise: (dim + 1, d) float32: `history_features` to z before any gradient step.
        rates: (d,) float32: how far each coordinate moves in a step along a gradient of unit root mean square.
        log_shrinkage: (1,) float32, log τ.
        base_model_id: the model it was made for; "" when not known.
        base_model_sha256: hash of that model's weights; "" when not known.

    Raises:
        PromptError: shapes that do not belong together, or a value that is not finite.
    """

    base: NDArray[np.float32]
    directions: NDArray[np.float32]
    amortise: NDArray[np.float32]
    rates: NDArray[np.float32]
    log_shrinkage: NDArray[np.float32]
    base_model_id: str = ""
    base_model_sha256: str = ""

    def __post_init__(self) -> None:
        for name in _TENSORS:
            value = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            if not np.isfinite(value).all():
                raise PromptError(f"context map: {name} has values that are not finite: training diverged, lower lr")
            object.__setattr__(self, name, value)
        k, dim = self.base.shape if self.base.ndim == 2 else (0, 0)
        d = len(self.rates)
        wanted = {"directions": (d, k, dim), "amortise": (dim + 1, d), "rates": (d,), "log_shrinkage": (1,)}
        wrong = [
            f"{name} {getattr(self, name).shape}"
            for name, shape in wanted.items()
            if getattr(self, name).shape != shape
        ]
        if wrong or not 1 <= d <= MAX_DIM or not k:
            raise PromptError(
                f"context map with base {self.base.shape}, {', '.join(wrong) or f'{d} floats a user'}: needs base "
                f"(k, dim), directions (d, k, dim), amortise (dim + 1, d), rates (d,), d between 1 and {MAX_DIM}"
            )

    @classmethod
    def initial(cls, token: NDArray[np.float32], k: int, d: int, seed: int = 0) -> "ContextMap":
        """Before training: every user gets k copies of `token`, (dim,), for instance a newline's embedding."""
        dim = len(token)
        random = np.random.default_rng(seed)
        return cls(
            base=np.tile(token, (k, 1)),
            directions=np.zeros((d, k, dim), dtype=np.float32),
            amortise=(random.standard_normal((dim + 1, d)) / np.sqrt(dim)).astype(np.float32),
            rates=np.full(d, 0.3, dtype=np.float32),
            log_shrinkage=np.log([2.0]).astype(np.float32),
        )

    @cached_property
    def sha256(self) -> str:
        """Hash of all values."""
        return hashlib.sha256(b"".join(getattr(self, name).astype("<f4").tobytes() for name in _TENSORS)).hexdigest()

    @property
    def mark(self) -> str:
        """Sixteen hex digits that a user's state keeps, to tell under which map its context was adapted."""
        return self.sha256[:16]

    def reads(self, state: UserState) -> bool:
        """Whether the state holds a context that was adapted under this map, as far as the state tells."""
        return len(state.vector) == self.dim and state.context_map in ("", self.mark)

    @property
    def dim(self) -> int:
        """d: floats a user."""
        return len(self.rates)

    def gate(self, support: int) -> float:
        """n / (n + τ): how much of its context a user with this many interactions keeps."""
        return support / (support + float(np.exp(self.log_shrinkage[0])))

    def start(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(users, d) contexts before any gradient step, from (users, dim + 1) `history_features`."""
        return features @ self.amortise

    def tokens(self, vector: NDArray[np.float32], support: int) -> TokenSequence:
        """The k soft tokens of a user.

        Args:
            vector: (d,) context; (0,) is a new user's.
            support: interactions it was adapted on.

        Raises:
            PromptError: a context of another length: it was adapted under another map.
        """
        if len(vector) not in (0, self.dim):
            raise PromptError(
                f"a context of {len(vector)} floats, this map reads {self.dim}: it was adapted under another map. "
                "Adapt the user again"
            )
        if not len(vector):
            return TokenSequence.from_vectors(self.base)
        moved = np.tensordot(self.gate(support) * vector, self.directions, axes=1)
        return TokenSequence.from_vectors((self.base + moved).astype(np.float32))

    def require_model(self, model: ModelInfo) -> None:
        """Raises PromptError when the map was made for another model than `model`."""
        require_base_model(_WHAT, self.base.shape[1], self.base_model_id, self.base_model_sha256, model)

    def save(self, path: Path) -> None:
        """Writes safetensors. Raises OSError when the disk refuses."""
        notes = {"base_model_id": self.base_model_id, "base_model_sha256": self.base_model_sha256}
        write_tensors(path, {name: getattr(self, name) for name in _TENSORS}, notes)

    @classmethod
    def load(cls, path: Path) -> "ContextMap":
        """Reads what `save` wrote.

        Raises:
            PromptError: the file is missing, damaged or something else.
        """
        tensors, notes = read_tensors(path, _TENSORS, _WHAT)
        return cls(
            **tensors,
            base_model_id=notes.get("base_model_id", ""),
            base_model_sha256=notes.get("base_model_sha256", ""),
        )


def history_features(embeddings: Sequence[NDArray[np.float32]], counts: Sequence[int]) -> NDArray[np.float32]:
    """What a context starts from: the mean token embedding of the history at unit root mean square, and log(1 + n).

    Args:
        embeddings: per user (n_tokens, dim) of the history's text; (0, dim) gives zeros.
        counts: per user, items in the history.

    Returns:
        (users, dim + 1) float32.
    """
    rows = []
    for one, count in zip(embeddings, counts, strict=True):
        mean = one.mean(axis=0) if len(one) else np.zeros(one.shape[1], dtype=np.float32)
        scale = max(float(np.sqrt(np.square(mean).mean())), 1e-9)
        rows.append(np.append(mean / scale, np.log1p(count)))
    return np.asarray(rows, dtype=np.float32)
