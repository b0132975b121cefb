"""Levers: the settings of a session that a controller changes between calls. The registry of their names.

LEVERS.register("mine", MyLever())  # in every process that uses the name, or by an entry point `erecap.levers`

The built-in ones are in `erecap.language_models.levers`, since they know what a session is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from erecap.registries import Registry

if TYPE_CHECKING:
    from erecap.config.modes import Mode


class Lever(Protocol):
    """One setting of a session. A value of None stands for the mode's own setting."""

    def check(self, value: Any) -> Any:
        """The value in the form that is written to cards. Raises ValueError, which says what is allowed."""
        ...

    def problem(self, value: Any, mode: Mode) -> str | None:
        """Reason why sessions of a mode cannot have the value, in words that follow a colon; None: they can."""
        ...

    def digest(self, value: Any) -> str | None:
        """Hash of a folder that the value names; None: it names none."""
        ...

    def rereads(self, before: Any, after: Any, evicted: bool) -> bool:
        """True if a session needs to read its conversation again when `before` becomes `after`.

        Args:
            evicted: the session no longer stores all that it has read.
        """
        ...

    def arguments(self, value: Any, own: Mapping[str, Any]) -> Mapping[str, Any]:
        """Arguments of a new session with the value, instead of those in `own`, the mode's; `layers` is a plan."""
        ...

    def change(self, session: Any, value: Any, own: Mapping[str, Any]) -> None:
        """Change an open session, where `rereads` says that this is enough."""
        ...


def _problem(entry: Any) -> str | None:
    methods = ("check", "problem", "digest", "rereads", "arguments", "change")
    missing = next((name for name in methods if not callable(getattr(entry, name, None))), None)
    if missing is not None or isinstance(entry, type):
        return f"an object with {', '.join(methods)}, got {entry!r}"
    return None


_HOME = "erecap.language_models.levers"
LEVERS = Registry(
    "lever",
    "erecap.levers",
    {
        "decode_weights": f"{_HOME}:DECODE_WEIGHTS",
        "draft": f"{_HOME}:DRAFT",
        "exit": f"{_HOME}:EXIT",
        "kv_tokens": f"{_HOME}:KV_TOKENS",
        "layers": f"{_HOME}:LAYERS",
        "prefill_keep": f"{_HOME}:PREFILL_KEEP",
        "slices": f"{_HOME}:SLICES",
    },
    _problem,
)
register = LEVERS.register  # (name, lever): adds a lever from another package


def rereads(before: Mapping[str, Any], after: Mapping[str, Any], evicted: bool) -> bool:
    """True if a session needs to read its conversation again when the levers `before` become `after`."""
    names = before.keys() | after.keys()
    return any(
        LEVERS[name].rereads(before.get(name), after.get(name), evicted)
        for name in sorted(names)
        if before.get(name) != after.get(name)
    )
