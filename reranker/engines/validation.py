"""Checks every engine makes before it computes anything, so that a bad request fails the same way everywhere."""

from collections.abc import Sequence

from reranker.errors import EngineError
from reranker.types import CandidateSpan, GenerationRequest, ModelInfo, ScoringRequest, TokenSequence


def check_requests(requests: Sequence[ScoringRequest], model: ModelInfo, *, targets_are_scored: bool) -> None:
    """Refuses requests the model cannot score.

    Args:
        requests: what the caller asks for.
        model: the limits to check against.
        targets_are_scored: True for likelihood, where a scored position must be a token and not a vector.

    Raises:
        EngineError: a prompt longer than the context window, vectors of another width than the model's, a token id
            outside the vocabulary, or a vector where a token is to be scored.
    """
    for number, request in enumerate(requests):
        if request.longest > model.max_length:
            longest = request.longest - len(request.prefix)
            raise EngineError(
                f"request {number}: {request.longest} tokens (prefix {len(request.prefix)} + longest candidate "
                f"{longest}) do not fit the {model.max_length} tokens of {model.model_id!r}. Shorten the prompt"
            )
        _check_sequence(request.prefix, model, f"request {number}, prefix")
        for position, candidate in enumerate(request.candidates):
            where = f"request {number}, candidate {position}"
            _check_sequence(candidate.sequence, model, where)
            if targets_are_scored and not candidate.sequence.is_plain:
                _check_targets(candidate, where)


def check_generation(request: GenerationRequest, model: ModelInfo) -> None:
    """Refuses a text the model cannot write.

    Raises:
        EngineError: prompt and `max_tokens` do not fit the context window, or the prompt is not for this model.
    """
    needed = len(request.prompt) + request.max_tokens
    if needed > model.max_length:
        raise EngineError(
            f"a prompt of {len(request.prompt)} tokens and {request.max_tokens} to write do not fit the "
            f"{model.max_length} tokens of {model.model_id!r}. Shorten the prompt or lower max_tokens"
        )
    _check_sequence(request.prompt, model, "prompt")


def check_labels(label_token_ids: Sequence[int], model: ModelInfo) -> None:
    """Refuses an empty list of labels and ids the model does not have.

    Raises:
        EngineError: no label, or a label outside the vocabulary.
    """
    if not label_token_ids:
        raise EngineError("label_log_probs needs at least one label token id")
    outside = [label for label in label_token_ids if not 0 <= label < model.vocab_size]
    if outside:
        raise EngineError(
            f"label token ids {outside} are outside the vocabulary of {model.model_id!r} (0..{model.vocab_size - 1})"
        )


def check_token_ids(token_ids: Sequence[int], model: ModelInfo) -> None:
    """Refuses token ids the embedding table does not have.

    Raises:
        EngineError: an id outside the vocabulary.
    """
    _check_sequence(TokenSequence.from_tokens(token_ids), model, "embed_tokens")


def check_layer(layer: int | None, n_layers: int, engine: str) -> None:
    """Refuses a layer that the engine cannot stop at.

    Args:
        layer: how many layers are to be computed; None for all.
        n_layers: what the engine says it has; 0 where it shows the last one only.
        engine: its name.

    Raises:
        EngineError: a layer the model does not have, or any where there is no choice.
    """
    if layer is not None and not 1 <= layer <= n_layers:
        has = f"layers 1 to {n_layers}" if n_layers else "the last layer only"
        raise EngineError(f"engine {engine!r} shows the states of {has}, not of layer {layer}")


def _check_sequence(sequence: TokenSequence, model: ModelInfo, where: str) -> None:
    token_ids = sequence.token_ids
    if not sequence.is_plain:
        if sequence.vectors.shape[1] != model.dim:
            raise EngineError(
                f"{where}: vectors of width {sequence.vectors.shape[1]} given to {model.model_id!r}, whose embeddings "
                f"have width {model.dim}. The soft prompt belongs to another base model"
            )
        token_ids = token_ids.copy()
        token_ids[sequence.vector_positions] = 0
    if len(token_ids) and (token_ids.min() < 0 or token_ids.max() >= model.vocab_size):
        raise EngineError(
            f"{where}: token ids from {token_ids.min()} to {token_ids.max()} do not fit the vocabulary of "
            f"{model.model_id!r} (0..{model.vocab_size - 1}). Was the prompt made with another tokenizer?"
        )


def _check_targets(candidate: CandidateSpan, where: str) -> None:
    if candidate.sequence.vector_positions[-1] >= candidate.scored_from:
        raise EngineError(
            f"{where}: position {candidate.sequence.vector_positions[-1]} is a vector and has no likelihood; "
            f"scoring starts at {candidate.scored_from}. Put vectors before the scored tokens"
        )
