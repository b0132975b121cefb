"""URL of a server that holds a run's model, with the model's name where the server offers several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_ALLOWED = "allowed: a server's URL such as http://127.0.0.1:8000/v1, with #NAME behind it for one of several models"
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?|[0-9a-f:.]*:[0-9a-f:.]*")
_PATH = re.compile(r"[!$-;=@-Z_a-z~]*")  # printable, without what a URL has to escape
_USER = re.compile(r"(?<=//)[^\s/]+@")


def without_password(text: str) -> str:
    """The text with `…` for names and passwords in its URLs."""
    return _USER.sub("…@", text)


@dataclass(frozen=True)
class ServerUrl:
    """The parts of a URL such as `http://127.0.0.1:8000/v1#planner`."""

    secure: bool  # https
    host: str
    port: int | None  # None: that of the scheme
    path: str  # without a slash at its end
    model: str | None  # None: the only one that the server offers

    @classmethod
    def of(cls, url: str) -> ServerUrl:
        """The parts of a text.

        Raises:
            ValueError: no URL of a server; or one with a name or password, which is not repeated, for it would stand
                in logs and in `run.json`.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            words = "no URL" if "@" in url else error  # the error may repeat a password
            raise ValueError(f"model: {words}; {_ALLOWED}") from error
        if "@" in parts.netloc:
            raise ValueError(f"model: the URL has a name or password, which belongs into OPENAI_API_KEY; {_ALLOWED}")
        plain = _HOST.fullmatch(host) and _PATH.fullmatch(parts.path) and url.isprintable() and not parts.query
        if parts.scheme not in ("http", "https") or not plain:
            raise ValueError(f"model: got {url!a}; {_ALLOWED}")
        return cls(parts.scheme == "https", host, port, parts.path.rstrip("/"), unquote(parts.fragment) or None)

    def __str__(self) -> str:
        """The server alone, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.secure else ''}://{host}" + ("" if self.port is None else f":{self.port}")
