"""Relations among records: all rules of what supersedes, mentions or protects what.

Edges go from the record that has the effect to the one it acts on, so from newer to older. An edge may carry
more than one relation.

**supersedes**: the newer record makes the older one stale:
- an observation supersedes the previous observation of the same subject;
- once a new plan is made, the last record of the old plan's outcome supersedes the old plan (the new plan
  itself does if there was no outcome);
- a failure is superseded by the next failure of the same command, and by the first success of that command;
- a failure that belongs to no command (a plan that could not be read) is superseded by the next command
  executed;
- a goal is superseded by the next goal.

**mentions**: a record names the subject of an older one; the edge goes to the newest record of that subject.

**protects**: the older record is needed to read the newer one: an observation or a failure needs the command
that led to it.

A command and its outcome belong together if no other command or plan was recorded between them.

Protected are: the newest goal and every constraint, the newest observation, the newest plan, the newest
`OPEN_FAILURES` failures that are not superseded, and what these protect. The count of failures is bounded so
that the protected part cannot grow with the length of the episode.
"""

from __future__ import annotations

import re

import networkx as nx

from erecap.context.records import Context, Record

OPEN_FAILURES = 8

_WORD = re.compile(r"\w+")


class ContextGraph:
    """The relations among the records of a context.

    Records appended later are read when a question is asked, each once, in time proportional to its words.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._graph = nx.DiGraph()
        self._seen = 0
        self._superseded: set[int] = set()
        self._goal: int | None = None
        self._pinned: set[int] = set()  # constraints
        self._newest_observation: int | None = None
        self._plan: int | None = None
        self._command: int | None = None  # the action whose outcome is awaited
        # Both by the words of the subject: its newest observation, and its newest record of any kind.
        self._observation_of: dict[tuple[str, ...], int] = {}
        self._about: dict[tuple[str, ...], int] = {}
        self._subject_lengths: set[int] = set()
        self._open: dict[str, int] = {}  # command, "" for a whole plan -> its open failure; oldest first

    @property
    def digraph(self) -> nx.DiGraph:
        """Nodes are record indices; an edge's relations are its attributes that are True."""
        self._update()
        return self._graph

    def superseded(self) -> set[int]:
        """Indices of the records that a newer one has overwritten."""
        self._update()
        return set(self._superseded)

    def protected(self) -> set[int]:
        """Indices of the records that must be kept now."""
        self._update()
        kept = set(self._pinned) | set(list(self._open.values())[-OPEN_FAILURES:])
        newest = (self._goal, self._newest_observation, self._plan)
        kept.update(index for index in newest if index is not None)
        return kept.union(*(self._targets(index, "protects") for index in kept))

    def mentions(self, index: int) -> set[int]:
        """Indices of the older records whose subjects record `index` names.

        Raises:
            IndexError: there is no such record.
        """
        self._update()
        if not 0 <= index < self._seen:
            raise IndexError(f"no record {index}; there are {self._seen}")
        return self._targets(index, "mentions")

    def _targets(self, index: int, relation: str) -> set[int]:
        return {other for _, other, holds in self._graph.out_edges(index, data=relation, default=False) if holds}

    def _update(self) -> None:
        records = self._context.records
        while self._seen < len(records):
            self._read(records[self._seen])
            self._seen += 1

    def _read(self, record: Record) -> None:
        self._graph.add_node(record.index)
        for older in self._named(_words(record.text)):
            self._graph.add_edge(record.index, older, mentions=True)
        match record.kind:
            case "goal":
                if self._goal is not None:
                    self._supersede(record.index, self._goal)
                self._goal = record.index
            case "constraint":
                self._pinned.add(record.index)
            case "plan":
                self._read_plan(record)
            case "action":
                self._command = record.index
                self._close("", record.index)
            case "failure":
                self._read_failure(record)
            case "observation":
                self._read_observation(record)
        subject = _words(record.subject)
        if subject:
            self._about[subject] = record.index
            self._subject_lengths.add(len(subject))

    def _read_plan(self, record: Record) -> None:
        if self._plan is not None:
            # The record just before this plan is the last of the old plan's outcome.
            outcome = record.index - 1
            self._supersede(outcome if outcome > self._plan else record.index, self._plan)
        self._plan = record.index
        self._command = None

    def _read_failure(self, record: Record) -> None:
        command = self._command_text()
        self._close(command, record.index)
        self._open[command] = record.index
        if self._command is not None:
            self._graph.add_edge(record.index, self._command, protects=True)

    def _read_observation(self, record: Record) -> None:
        self._newest_observation = record.index
        subject = _words(record.subject)
        if subject:
            older = self._observation_of.get(subject)
            if older is not None:
                self._supersede(record.index, older)
            self._observation_of[subject] = record.index
        if self._command is None:
            return
        self._graph.add_edge(record.index, self._command, protects=True)
        failure = self._open.get(self._command_text())
        if failure is not None and failure < self._command:
            self._close(self._command_text(), record.index)

    def _command_text(self) -> str:
        if self._command is None:
            return ""
        return " ".join(self._context.records[self._command].text.split())

    def _close(self, command: str, by: int) -> None:
        failure = self._open.pop(command, None)
        if failure is not None:
            self._supersede(by, failure)

    def _supersede(self, newer: int, older: int) -> None:
        self._graph.add_edge(newer, older, supersedes=True)
        self._superseded.add(older)

    def _named(self, words: tuple[str, ...]) -> set[int]:
        """Newest records of the subjects that stand in `words`, as whole words."""
        found: set[int] = set()
        for length in self._subject_lengths:
            for start in range(len(words) - length + 1):
                older = self._about.get(words[start : start + length])
                if older is not None:
                    found.add(older)
        return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))
