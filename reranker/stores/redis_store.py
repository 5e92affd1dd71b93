"""User states in Redis: for servers on several machines."""

import contextlib
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from reranker.errors import ConfigError, StoreError
from reranker.stores.records import (
    TIMEOUT_SECONDS,
    context_record,
    interactions_record,
    read_record,
    state_record,
    user_key,
    user_keys,
    user_of,
)
from reranker.types import UserId, UserInteraction, UserState

logger = logging.getLogger(__name__)

_KEYS_A_CALL = 1000


# A context is put at the end of the record: interactions that others append at the same time stay. Records grow by some
# 300 bytes a time until the user's whole state is written again.
_PUT_CONTEXT = """
if ARGV[2] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('APPEND', KEYS[1], ARGV[1])
if ARGV[3] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
"""


class RedisUserStore:
    """A `UserStore` on one Redis server (no cluster: `put` is one transaction over many keys).

    Each user is one string: a state, and interactions appended to it. What outlives a crash of the Redis server is for
    the server to say (`appendonly yes`); its files keep forgotten users until it writes them anew (BGREWRITEAOF).

    Args:
        url: "redis://host:6379/0", "rediss://..." or "unix://...".
        prefix: begins every key, so that several bundles can share a server.
        ttl_seconds: a state expires this long after it was last written; None keeps it.
        timeout_seconds: for an answer of the server.

    Raises:
        ConfigError: redis-py is not installed.
        StoreError: the URL is wrong or the server does not answer.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "reranker:user:",
        ttl_seconds: float | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        if ttl_seconds is not None and ttl_seconds < 0.001:
            raise StoreError(f"ttl_seconds must be at least 0.001, got {ttl_seconds}; None keeps states for ever")
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise ConfigError(f"the Redis store needs redis-py ({error}): pip install 'reranker[redis]'") from error
        self.prefix = prefix
        self.ttl_seconds = ttl_seconds
        self._ttl_ms = None if ttl_seconds is None else round(ttl_seconds * 1000)
        self._where = re.sub(r"//[^@/]*@", "//", url)  # no password in messages
        self._errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        try:
            # No retries: an append whose answer was lost may have been done, and would be done twice.
            self._client: Any = redis.Redis.from_url(
                url,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise StoreError(f"{self._where!r} is no Redis URL: {error}. Give redis://host:6379/0") from error
        self._closed = False
        with self._explained():
            persistence: Any = self._client.info("persistence")
        if not persistence.get("aof_enabled"):
            logger.warning(
                "the Redis server at %s keeps no append-only file: after a crash it has lost what came after its last "
                "snapshot. Set `appendonly yes`",
                self._where,
            )

    def get(self, user_ids: Sequence[UserId], last: int | None = None) -> dict[UserId, UserState]:
        keys = user_keys(user_ids)
        if not keys:
            return {}
        with self._explained():
            records = self._client.mget([self.prefix + key for key in keys])
        return {
            user_id: read_record(user_of(key), record, last)
            for (key, user_id), record in zip(keys.items(), records, strict=True)
            if record is not None
        }

    def put(self, states: Iterable[UserState]) -> None:
        records = {self.prefix + user_key(state.user_id): state_record(state) for state in states}
        with self._explained(), self._client.pipeline(transaction=True) as transaction:
            for key, record in records.items():
                transaction.set(key, record, px=self._ttl_ms)
            transaction.execute()

    def append(self, user_id: UserId, interactions: Sequence[UserInteraction], last: int | None = None) -> UserState:
        key = user_key(user_id)
        added = interactions_record(user_id, interactions, time.time())
        with self._explained(), self._client.pipeline(transaction=True) as transaction:
            transaction.append(self.prefix + key, added)
            if self._ttl_ms is None:
                transaction.persist(self.prefix + key)
            else:
                transaction.pexpire(self.prefix + key, self._ttl_ms)
            transaction.get(self.prefix + key)
            record = transaction.execute()[-1]
        return read_record(user_of(key), record, last)

    def put_contexts(self, states: Iterable[UserState]) -> None:
        wanted = [(self.prefix + user_key(one.user_id), context_record(one), bool(one.interactions)) for one in states]
        with self._explained(), self._client.pipeline(transaction=True) as transaction:
            for key, added, needs_record in wanted:
                transaction.eval(_PUT_CONTEXT, 1, key, added, int(needs_record), self._ttl_ms or 0)
            transaction.execute()

    def forget(self, user_ids: Sequence[UserId]) -> int:
        keys = [self.prefix + key for key in user_keys(user_ids)]
        with self._explained():
            return sum(
                self._client.delete(*keys[start : start + _KEYS_A_CALL]) for start in range(0, len(keys), _KEYS_A_CALL)
            )

    def user_ids(self) -> Iterator[UserId]:
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", self.prefix) + "*"
        seen: set[bytes] = set()  # SCAN may return a key twice
        with self._explained():
            for key in self._client.scan_iter(match=pattern, count=_KEYS_A_CALL):
                if key not in seen:
                    seen.add(key)
                    yield user_of(key.decode()[len(self.prefix) :])

    def close(self) -> None:
        self._client.close()
        self._closed = True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        if self._closed:
            raise StoreError(f"the user store at {self._where} was closed; open it again")
        try:
            yield
        except self._errors as error:
            raise StoreError(
                f"the Redis server at {self._where} failed: {error}. Check that it runs, that the URL and password are "
                "right and that it has memory left"
            ) from error
