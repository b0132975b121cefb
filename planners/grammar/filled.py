"""The trie of all commands that templates and known names make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from erecap.planners.grammar.trie import Trie
from erecap.planners.templates import fill_templates

Spell = Callable[[Iterable[str]], Mapping[str, tuple[int, ...]]]
"""Commands -> their token ids; commands that cannot be spelled are left out."""


class FilledTemplates:
    """Keeps the trie between calls, and grows it in place while names are only added, as in an episode."""

    def __init__(self, spell: Spell) -> None:
        self._spell = spell
        self._names: tuple[tuple[str, ...], dict[str, tuple[str, ...]]] | None = None
        self._commands: set[str] = set()
        self._trie = Trie()

    def trie(self, templates: Sequence[str], entities: Mapping[str, Sequence[str]]) -> Trie:
        """All filled templates as token ids."""
        names = (tuple(templates), {slot: tuple(values) for slot, values in entities.items()})
        if names == self._names:
            return self._trie
        commands = fill_templates(*names)
        if not self._commands.issubset(commands):
            self._commands, self._trie = set(), Trie()
        added = [command for command in commands if command not in self._commands]
        for ids in self._spell(added).values():
            self._trie.add(ids)
        self._commands.update(added)
        self._names = names
        return self._trie
