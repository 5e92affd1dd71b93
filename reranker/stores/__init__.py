"""Where user states live: a file (`SqliteUserStore`, the default) or a server (`RedisUserStore`).

To add a store: write a class that passes `tests/contracts/stores.py` and give it a line in `open_user_store`.
"""

from pathlib import Path

from reranker.protocols import UserStore
from reranker.stores.records import MAX_DIM, TIMEOUT_SECONDS
from reranker.stores.redis_store import RedisUserStore
from reranker.stores.sqlite_store import SqliteUserStore

_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def open_user_store(
    where: Path | str, ttl_seconds: float | None = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> UserStore:
    """The store at a file path or a Redis URL.

    Raises:
        ConfigError: the Redis store's package is not installed.
        StoreError: the store cannot be opened.
    """
    if isinstance(where, str) and where.startswith(_REDIS_SCHEMES):
        return RedisUserStore(where, ttl_seconds=ttl_seconds, timeout_seconds=timeout_seconds)
    return SqliteUserStore(where, ttl_seconds, timeout_seconds)


__all__ = ["MAX_DIM", "RedisUserStore", "SqliteUserStore", "open_user_store"]
