"""API keys of a server's clients. One key is one tenant: what it reads and counts is apart from all others."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from erecap.errors import ConfigError

EVERYBODY = ""  # the tenant of a server without keys, or with a single one
_MOST = 1 << 20  # bytes of a file of keys


class Keys:
    """Keys that clients may send as `Authorization: Bearer KEY`.

    Args:
        keys: at least one, each of printable ASCII characters without blanks.

    Raises:
        ConfigError: none, a key that no header can carry, or one that is there twice. Keys are not repeated in it.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = list(keys)
        if not self._keys:
            raise ConfigError("keys: got none; allowed: at least one")
        for number, key in enumerate(self._keys, start=1):
            if not key or not all("!" <= character <= "~" for character in key):
                raise ConfigError(f"key {number}: allowed are printable ASCII characters without blanks")
        if len(set(self._keys)) < len(self._keys):
            raise ConfigError("keys: one is there twice; allowed: each once")
        # Digests, so that no key stands in a log or in an object that is printed.
        self.tenants = (EVERYBODY,) if len(self._keys) == 1 else tuple(map(_digest, self._keys))

    @classmethod
    def of(cls, given: Keys | str | None) -> Keys | None:
        """Keys as `create_app` and `create_proxy` take them: none, a single one, or several."""
        return cls([given]) if isinstance(given, str) else given

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Keys of a file, one a line; blank lines and lines that begin with # do not count.

        Raises:
            ConfigError: it cannot be read, or as the class says.
        """
        try:
            with path.open("rb") as file:
                text = file.read(_MOST).decode("ascii")
        except OSError as error:
            raise ConfigError(f"--key-file: {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"--key-file: {path} has bytes beyond ASCII (byte {error.start})") from error
        lines = (line.strip() for line in text.split("\n"))
        try:
            return cls([line for line in lines if line and not line.startswith("#")])
        except ConfigError as error:
            raise ConfigError(f"--key-file: {path}: {error}") from error

    @property
    def several(self) -> bool:
        """True if tenants are to be kept apart."""
        return len(self._keys) > 1

    def tenant(self, authorization: bytes) -> str | None:
        """The tenant of a header `Authorization`; None: it has none of the keys. Takes equally long for all keys."""
        scheme, _, said = authorization.partition(b" ")
        found = None
        for key, tenant in zip(self._keys, self.tenants, strict=True):
            if hmac.compare_digest(said.strip(), key.encode()):
                found = tenant
        return found if scheme.lower() == b"bearer" else None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]
