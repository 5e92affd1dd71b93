"""Pseudonyms of users: the same user has the same one, and only who holds the key can tell whose it is.

HMAC-SHA256 of the id under a secret key (RFC 2104). Unlike a bare hash, it cannot be undone by trying ids.
"""

import hmac
from collections.abc import Iterable
from pathlib import Path

from reranker.errors import ConfigError

FEWEST_BYTES = 16
_PREFIX = "p-"  # so that a pseudonym is not taken for an id


class Pseudonyms:
    """Pseudonyms under one key.

    Args:
        key: at least `FEWEST_BYTES` bytes, as random as passwords are.

    Raises:
        ConfigError: the key is too short.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < FEWEST_BYTES:
            raise ConfigError(
                f"a key of pseudonyms has at least {FEWEST_BYTES} bytes, got {len(key)}: for instance "
                "`head -c 32 /dev/urandom | base64 > users.key`"
            )
        self._key = key

    @classmethod
    def read(cls, path: Path) -> "Pseudonyms":
        """With the key in a file; white space at its ends is no part of it.

        Raises:
            ConfigError: the file cannot be read, or the key is too short.
        """
        try:
            return cls(path.read_bytes().strip())
        except OSError as error:
            raise ConfigError(f"cannot read the key of pseudonyms in {path}: {error}") from error

    def of(self, user: object) -> str:
        """The pseudonym of an id; 7 and "7" have the same."""
        return _PREFIX + hmac.new(self._key, str(user).encode(), "sha256").hexdigest()[:32]

    def names(self, users: Iterable[object]) -> set[str]:
        """What the users may be called where they are written down: ids as text, and pseudonyms."""
        given = list(users)
        return {str(user) for user in given} | {self.of(user) for user in given}
