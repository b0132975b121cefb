"""A trie over token ids, with the distance to the nearest complete sequence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

FAR = math.inf  # no complete sequence below


class Node:
    """A prefix of token ids."""

    __slots__ = ("children", "shortest", "terminal")

    def __init__(self) -> None:
        self.children: dict[int, Node] = {}
        self.terminal = False  # the prefix is itself a complete sequence
        self.shortest: float = FAR  # fewest further tokens to a complete sequence; 0 at one


class Trie:
    """Sequences of token ids. Grows in place; nothing is ever removed."""

    def __init__(self, sequences: Iterable[Sequence[int]] = ()) -> None:
        self.root = Node()
        for sequence in sequences:
            self.add(sequence)

    def add(self, sequence: Sequence[int]) -> None:
        """Insert a sequence; time proportional to its length."""
        left = len(sequence)
        node = self.root
        node.shortest = min(node.shortest, left)
        for token in sequence:
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = Node()
            left -= 1
            if left < child.shortest:
                child.shortest = left
            node = child
        node.terminal = True

    def sequences(self) -> list[tuple[int, ...]]:
        """All complete sequences, for tests and for looking at it."""
        found: list[tuple[int, ...]] = []
        stack: list[tuple[Node, tuple[int, ...]]] = [(self.root, ())]
        while stack:
            node, prefix = stack.pop()
            if node.terminal:
                found.append(prefix)
            stack.extend((child, (*prefix, token)) for token, child in node.children.items())
        return sorted(found)
