"""API keys: hashed at rest, compared in constant time, with scopes and rates."""

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from reranker.errors import ConfigError
from reranker.utils.atomic_io import whole_file

SCOPES = ("rank", "adapt", "admin")
"""rank: rerank, write text, list models; adapt: write interactions; admin: read and forget users, and all of that."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key, without its secret.

    Attributes:
        name: for logs.
        sha256: hex of the secret.
        scopes: what it may do.
        per_minute: requests a minute; None for no limit.
    """

    name: str
    sha256: str
    scopes: tuple[str, ...]
    per_minute: int | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


ANYONE = Key(name="anyone", sha256="", scopes=SCOPES)
"""Who asks a server without keys."""


class Keys:
    """The keys of a server.

    Args:
        keys: those that are let in; none lets everyone in.
        now: clock of the rates, in seconds.
    """

    def __init__(self, keys: Sequence[Key] = (), now: Callable[[], float] = time.monotonic) -> None:
        self._keys = tuple(keys)
        self._now = now
        self._lock = threading.Lock()
        self._levels: dict[str, tuple[float, float]] = {}  # key -> (requests left, at what time)

    @property
    def asked_for(self) -> bool:
        """Whether anybody needs one."""
        return bool(self._keys)

    def find(self, secret: str | None) -> Key | None:
        """The key with this secret; every key is compared, so that time tells nothing."""
        if not self._keys:
            return ANYONE
        given = hashlib.sha256((secret or "").encode()).hexdigest()
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, given)]
        return found[0] if found else None

    def wait(self, key: Key) -> float:
        """Takes one request from the key's rate: 0.0, or the seconds until there is one again (token bucket)."""
        if key.per_minute is None:
            return 0.0
        with self._lock:
            now = self._now()
            level, then = self._levels.get(key.sha256, (float(key.per_minute), now))
            level = min(float(key.per_minute), level + (now - then) * key.per_minute / 60)
            if level < 1:
                self._levels[key.sha256] = level, now
                return (1 - level) * 60 / key.per_minute
            self._levels[key.sha256] = level - 1, now
            return 0.0


def new_key(path: Path, name: str, scopes: Sequence[str], per_minute: int | None = None) -> str:
    """Adds a key to the file and returns its secret, which is kept nowhere.

    Calls at once, of other processes, too, wait for each other (a lock file beside it), so that none loses a key.

    Raises:
        ConfigError: an unknown scope, a name that is taken, or a file that cannot be read or written.
    """
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise ConfigError(f"unknown scopes {unknown}: choose of {', '.join(SCOPES)}")
    secret = f"rr-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    try:
        path = path.resolve()  # one lock for a file and the links to it
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            _add(path, Key(name=name, sha256=digest, scopes=tuple(scopes), per_minute=per_minute))
    except OSError as error:
        raise ConfigError(f"cannot write the keys to {path}: {error}") from error
    return secret


def _add(path: Path, key: Key) -> None:
    keys = list(read_keys(path)) if path.exists() else []
    if any(one.name == key.name for one in keys):
        raise ConfigError(f"{path} already has a key called {key.name!r}: choose another name, or remove that entry")
    with whole_file(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps([asdict(one) for one in (*keys, key)], indent=1) + "\n", encoding="utf-8")


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file that `new_key` wrote.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        keys = tuple(Key(**{**entry, "scopes": tuple(entry["scopes"])}) for entry in entries)
        wrong = [key.name for key in keys if set(key.scopes) - set(SCOPES) or len(bytes.fromhex(key.sha256)) != 32]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"cannot read API keys from {path}: {error!r}. Make them with `reranker keys add`") from error
    if wrong or not keys:
        raise ConfigError(f"{path}: {wrong or 'no key at all'}: make keys with `reranker keys add`")
    return keys
