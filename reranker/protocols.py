"""Interfaces between parts: candidate generator, tokenizer, engine, user store. Contract suites: tests/contracts."""

from collections.abc import Generator as Pieces
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.types import (
    GenerationPiece,
    GenerationRequest,
    ItemId,
    ModelInfo,
    ScoringRequest,
    SpanScores,
    TokenSequence,
    UserId,
    UserInteraction,
    UserState,
)


@runtime_checkable
class CandidateGenerator(Protocol):
    """Proposes items for users."""

    name: str

    def clone(self) -> Self:
        """An unfitted copy with the same settings: how a validation fold gets a first stage that has not seen it."""

    def fit(self, interactions: pd.DataFrame) -> Self:
        """Learns from an interactions table (`user_id, item_id`, optional `timestamp`, `weight`). Returns self."""

    def recommend(self, user_ids: Iterable[UserId], n: int, exclude_seen: bool = True) -> pd.DataFrame:
        """A candidates table: `user_id, item_id, score, rank` (1-based), at most n rows a user, users as given.

        Users that `fit` has not seen get the most popular items; a user for whom nothing is left gets no row.
        """

    def save(self, directory: Path) -> None:
        """Writes the fitted state under `directory` as npz and JSON, never pickle."""

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Reads what `save` wrote."""


@runtime_checkable
class HasItemFactors(Protocol):
    """A candidate generator that knows where items lie: its space measures how alike two items are."""

    @property
    def item_ids(self) -> list[ItemId]:
        """The catalogue."""

    def item_factors(self, item_ids: Iterable[ItemId]) -> NDArray[np.float32]:
        """(len(item_ids), factors); zeros for an unknown item."""


@runtime_checkable
class ProposesNewItems(Protocol):
    """A candidate generator that can propose items that nobody chose, by what their rows in the item table say."""

    @property
    def takes_new_items(self) -> bool:
        """Whether it proposes such, and `add_items` takes rows of the item table."""

    @property
    def new_item_ids(self) -> list[ItemId]:
        """The items that nobody chose and that may be proposed."""

    def add_items(self, items: pd.DataFrame) -> int:
        """Takes in items that came after `fit`: rows of the item table. Returns how many are new."""


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a tokenizer that prompts need."""

    @property
    def opening_ids(self) -> tuple[int, ...]:
        """Special tokens that the model expects before any text, `<bos>` for instance; empty for many models."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with no special token added and none recognised inside the text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`, special tokens included."""


@runtime_checkable
class Engine(Protocol):
    """Scores candidates with a causal LM.

    Each call takes a whole batch and is free to regroup it; results come back in the order of the requests. Scores of
    one candidate depend on its prefix and its own tokens only: not on the other candidates, their order or the batch.
    Requests longer than `model.max_length` raise EngineError before anything is computed.
    """

    name: str
    model: ModelInfo
    tokenizer: Tokenizer

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """(len(token_ids), dim) rows of the input embedding table: where soft prompts start from."""

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        """Per request: Σ log p(token | prefix, span so far) over the scored tokens of each candidate, in nats."""

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """Per request: (n_candidates, n_labels) log p(label | prefix, span) after each candidate's last token.

        Log-probabilities are normalised over the whole vocabulary, in nats.
        """

    def close(self) -> None:
        """Frees the model. The engine must not be used afterwards."""


@runtime_checkable
class ReadsStates(Protocol):
    """An engine that shows its hidden states, too."""

    def span_states(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        """Per request: (n_candidates, dim) mean of the states after the last norm, over the tokens that the scored ones
        of the candidate follow; zeros where nothing is scored."""


@runtime_checkable
class ComparesTexts(Protocol):
    """An engine that turns whole texts into vectors whose cosine says how alike they are in meaning."""

    @property
    def text_tokenizer(self) -> Tokenizer:
        """What the lengths of these texts are counted by."""

    @property
    def max_text_tokens(self) -> int:
        """Where a longer text is cut."""

    def text_pieces(self, text: str) -> list[tuple[str, bool]]:
        """What stands behind each token of a text, and whether it is one that the model knows."""

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dim) unit vectors; zeros for a text without a word."""


class StopsAtLayer(ReadsStates, Protocol):
    """An engine that can leave the upper layers out where only hidden states are asked for: see `n_layers`."""

    @property
    def n_layers(self) -> int:
        """How many layers the model has; 0 where the engine shows the states of the last one only."""

    def span_states(self, requests: Sequence[ScoringRequest], layer: int | None = None) -> list[NDArray[np.float32]]:
        """As `ReadsStates.span_states`, of the first `layer` layers and the last norm; None computes all layers.

        Raises:
            EngineError: the model has no such layer.
        """


def n_layers(engine: Engine) -> int:
    """Layers after which the engine can stop; 0 where it shows the states of the last one only."""
    return int(getattr(engine, "n_layers", 0))


HIDDEN_STATES = "hidden states"
"""Something that a scorer may need of an engine: `ReadsStates`."""

LOWER_STATES = "hidden states of a layer below the last"
"""The same: `StopsAtLayer`."""


@runtime_checkable
class Limited(Protocol):
    """An engine that cannot do all that its class can: it depends on what it found where it was loaded.

    Attributes:
        lacks: what it cannot do (`HIDDEN_STATES`, `LOWER_STATES`) -> why.
    """

    lacks: Mapping[str, str]


@runtime_checkable
class RunsApart(Protocol):
    """An engine whose model runs in a process of its own."""

    @property
    def dead(self) -> bool:
        """The process is gone: every call fails from now on, and only a new engine helps."""


@runtime_checkable
class PromptTokenizer(Tokenizer, Protocol):
    """A tokenizer for prompts that others wrote, as OpenAI's API takes them."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens with which the model ends its answer."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text and are left out of answers."""

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a whole prompt, as the model's makers meant it: special tokens are added and recognised."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation (`role`, `content`) up to where the answer begins; contents stay plain text.

        Raises:
            PromptError: the model has no chat template, or it refuses these messages.
        """


@runtime_checkable
class Generator(Protocol):
    """An engine that can write, too. Scoring calls from other threads go on between the pieces."""

    @property
    def tokenizer(self) -> PromptTokenizer:
        """The engine's tokenizer."""

    def generate(self, request: GenerationRequest) -> Pieces[GenerationPiece]:
        """What follows the prompt, piece by piece; only the last piece has a `finish_reason`.

        Closing the generator ends the work. A request that does not fit `model.max_length` raises EngineError at once.
        """


@runtime_checkable
class VLLMHost(Generator, Protocol):
    """An engine whose texts vLLM's own server parts can ask for."""

    model: ModelInfo

    @property
    def front(self) -> Any:
        """vLLM's front end: its configuration (`vllm_config`), `renderer` and `input_processor`."""

    def run(self, prompt: TokenSequence, parameters: Any, cache_salt: str | None = None) -> Pieces[list[Any]]:
        """`vllm.RequestOutput`s for `vllm.SamplingParams`, step by step. Closing the generator ends the work."""

    def grammar_problem(self, parameters: Any, seconds: float) -> str:
        """ "" where the grammar of `vllm.SamplingParams` compiles within `seconds`, else why it does not."""


@runtime_checkable
class UserStore(Protocol):
    """Keeps `UserState` records; many threads and processes may use one store at once.

    A write that has returned survives a crash of the process. Errors of the storage itself raise StoreError.
    """

    def get(self, user_ids: Sequence[UserId], last: int | None = None) -> dict[UserId, UserState]:
        """The states of those who have one, in one batch; expired ones have none.

        Args:
            user_ids: whose.
            last: interactions of each to read, the newest; all by default.

        Raises:
            DataError: one text instead of several ids.
        """

    def put(self, states: Iterable[UserState]) -> None:
        """Stores or replaces whole states, all or none of them."""

    def append(self, user_id: UserId, interactions: Sequence[UserInteraction], last: int | None = None) -> UserState:
        """Adds interactions after those already there; concurrent calls lose none.

        Args:
            user_id: whose.
            interactions: item and time of each, and what it says (`types.Signal`), oldest first.
            last: interactions wanted in the answer, the newest; all by default.

        Returns:
            The new state.
        """

    def put_contexts(self, states: Iterable[UserState]) -> None:
        """Stores what adapting changed and leaves the interactions that are there, however many came meanwhile.

        A user who was forgotten meanwhile is not brought back: a state with interactions needs a record to go to.
        """

    def forget(self, user_ids: Sequence[UserId]) -> int:
        """Removes every trace of these users; returns how many were there.

        Raises:
            DataError: one text instead of several ids.
        """

    def user_ids(self) -> Iterator[UserId]:
        """Everyone who has a state."""

    def close(self) -> None:
        """Writes what is pending and frees the store."""
