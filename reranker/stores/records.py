"""A user's state as bytes, and a user's id as text: what every store keeps.

A record is a row of parts, so that interactions can be added at its end without reading what stands before:

    state         JSON: support, support_loss, step_scale, updated_at, context_map, history
    vector        raw little-endian float32
    interactions  JSON: when they were added, and [item id, timestamp], [item id, timestamp, event, rating] or
                  [item id, timestamp, event, rating, weight] each, oldest first; any number of such parts

Each part is a tag, a length, a CRC-32 and its bytes. Of states and vectors the last ones count. A record that only ever
had interactions added has no state: then the user is a new user who did something. No pickle, so reading a record never
runs code.
"""

import json
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reranker.data.schema import refuse_single
from reranker.errors import BundleError, StoreError
from reranker.types import ItemId, Signal, UserId, UserInteraction, UserState
from reranker.utils.id_json import decode_ids, encode_ids

TIMEOUT_SECONDS = 30.0
"""How long a store waits for its server or for other writers."""

MAX_DIM = 64
"""Floats a context vector may have: 256 bytes."""

_INTERACTIONS_A_PART = 500  # so that the newest can be read without the rest

_HEADER = struct.Struct("<cII")  # tag, length, CRC-32
_STATE, _VECTOR, _INTERACTIONS = b"S", b"V", b"I"


def user_key(user_id: UserId) -> str:
    """A user's id as ASCII text that `user_of` reads back. 1, 1.0, True and "1" are four users.

    Raises:
        DataError: an id of a type that cannot be stored.
    """
    return json.dumps(encode_ids([user_id])[0], separators=(",", ":"))


def user_keys(user_ids: Sequence[UserId]) -> dict[str, UserId]:
    """Key -> user, each once.

    Raises:
        DataError: one text instead of several ids, or an id of a type that cannot be stored.
    """
    refuse_single(user_ids, "user ids", "user_ids")
    return {user_key(user_id): user_id for user_id in user_ids}


def user_of(key: str) -> UserId:
    """The inverse of `user_key`.

    Raises:
        StoreError: no such text was written by `user_key`.
    """
    try:
        user_id: UserId = decode_ids([json.loads(key)])[0]
    except (ValueError, BundleError) as error:
        raise StoreError(
            f"the store holds a damaged user id {key[:80]!r} ({error}). Restore it from a backup"
        ) from error
    return user_id


def state_record(state: UserState) -> bytes:
    """The whole state.

    Raises:
        StoreError: the vector is not (dim,) finite floats with dim <= 64, or a time is not finite.
        DataError: an item id of a type that cannot be stored.
    """
    vector = np.asarray(state.vector)
    if vector.ndim != 1 or len(vector) > MAX_DIM or not np.isfinite(vector).all():
        raise StoreError(
            f"the context vector of user {state.user_id!r} must be (dim,) finite floats with dim <= {MAX_DIM}, got "
            f"shape {vector.shape}. A smaller context is set where it is trained"
        )
    numbers = encode_ids([state.support_loss, float(state.step_scale), float(state.updated_at)])  # NaN is no JSON
    values = [int(state.support), *numbers, state.context_map, state.history]
    parts = [_part(_STATE, _as_json(values)), _part(_VECTOR, vector.astype("<f4").tobytes())]
    if state.interactions:
        parts.append(interactions_record(state.user_id, state.interactions, state.updated_at))
    return b"".join(parts)


def context_record(state: UserState) -> bytes:
    """What is put at the end of a record to replace what adapting changed; the interactions before it stay.

    Raises:
        StoreError: as in `state_record`.
    """
    return state_record(replace(state, interactions=()))


def interactions_record(user_id: UserId, interactions: Sequence[UserInteraction], added_at: float) -> bytes:
    """What is put at the end of a record to add interactions.

    Raises:
        StoreError: a timestamp, rating or weight is not a finite number.
        DataError: an item id of a type that cannot be stored.
    """
    times = [_number(user_id, "timestamp", row[1]) for row in interactions]
    said = [_said(user_id, row[2]) if len(row) == 3 else [] for row in interactions]
    items = encode_ids(row[0] for row in interactions)
    pairs = [[item, time, *more] for item, time, more in zip(items, times, said, strict=True)]
    parts = [pairs[begin : begin + _INTERACTIONS_A_PART] for begin in range(0, len(pairs), _INTERACTIONS_A_PART)]
    return b"".join(_part(_INTERACTIONS, _as_json([float(added_at), *part])) for part in parts or [[]])


def with_context(user_id: UserId, record: bytes, context: bytes) -> bytes:
    """A record whose state and vector are those of `context`; its interactions stay, and are not decoded.

    Args:
        user_id: whose.
        record: what is stored.
        context: of `context_record`.

    Raises:
        StoreError: the record is damaged.
    """
    try:
        kept = [_part(tag, content) for tag, content in _parts(record) if tag == _INTERACTIONS]
    except (ValueError, struct.error) as error:
        raise _damaged(user_id, error) from error
    return context + b"".join(kept)


def read_record(user_id: UserId, record: bytes, last: int | None = None) -> UserState:
    """The state that `state_record` and `interactions_record` wrote.

    Args:
        user_id: whose.
        record: all of it.
        last: interactions to read, the newest; all by default. What stands before them is not decoded.

    Raises:
        StoreError: the record is damaged.
    """
    state = UserState(user_id=user_id)
    added: list[bytes] = []
    try:
        for tag, content in _parts(record):
            if tag == _STATE:
                support, *numbers, context_map, history = json.loads(content)
                loss, step_scale, updated_at = decode_ids(numbers)
                state = replace(
                    state,
                    support=support,
                    support_loss=loss,
                    step_scale=step_scale,
                    updated_at=updated_at,
                    context_map=context_map,
                    history=history,
                )
            elif tag == _VECTOR:
                state = replace(state, vector=np.frombuffer(content, dtype="<f4").astype(np.float32))
            elif tag == _INTERACTIONS:
                added.append(content)
            else:
                raise ValueError(f"unknown part {tag!r}")
        newest: list[list[UserInteraction]] = []
        missing = math.inf if last is None else last
        for content in reversed(added):
            if missing <= 0 and newest:
                break
            added_at, *pairs = json.loads(content)
            items = decode_ids(item for item, *_ in pairs)
            newest.append([_interaction(item, *pair[1:]) for item, pair in zip(items, pairs, strict=True)])
            missing -= len(pairs)
            state = replace(state, updated_at=max(state.updated_at, added_at))
    except (ValueError, TypeError, struct.error, BundleError) as error:
        raise _damaged(user_id, error) from error
    interactions = [pair for pairs in reversed(newest) for pair in pairs]
    return replace(
        state, interactions=tuple(interactions if last is None else interactions[max(0, len(interactions) - last) :])
    )


def shown_interaction(row: UserInteraction) -> dict[str, object]:
    """A row as JSON shows it; `event`, `rating` and `weight` where it has one."""
    said = row[2]._asdict() if len(row) == 3 else {}
    present = {name: value for name, value in said.items() if value is not None}
    return {"item_id": row[0], "timestamp": row[1], **present}


def _number(user_id: UserId, name: str, value: float | None) -> float | None:
    number = None if value is None else float(value)
    if number is not None and not math.isfinite(number):
        raise StoreError(f"an interaction of user {user_id!r} has the {name} {number}; give a number or None")
    return number


def _said(user_id: UserId, signal: Signal) -> list[str | float | None]:
    """Event and rating, and the weight where there is one."""
    weight = [] if signal.weight is None else [_number(user_id, "weight", signal.weight)]
    return [signal.event, _number(user_id, "rating", signal.rating), *weight]


def _interaction(item: ItemId, time: float | None, *said: Any) -> UserInteraction:
    """A row as it was given: behind the time, event and rating, and the weight where there is one."""
    signal = Signal(*said)
    return (item, time) if signal == Signal() else (item, time, signal)


def _damaged(user_id: UserId, error: Exception) -> StoreError:
    return StoreError(
        f"the stored state of user {user_id!r} is damaged ({error}). Restore the store from a backup, or forget this "
        "user"
    )


def _part(tag: bytes, content: bytes) -> bytes:
    return _HEADER.pack(tag, len(content), zlib.crc32(content)) + content


def _parts(record: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 0
    while start < len(record):
        tag, length, checksum = _HEADER.unpack_from(record, start)
        start += _HEADER.size
        content = record[start : start + length]
        if len(content) != length or zlib.crc32(content) != checksum:
            raise ValueError(f"the part at byte {start} does not have its checksum")
        yield tag, content
        start += length


def _as_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
