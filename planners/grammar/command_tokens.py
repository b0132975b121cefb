"""Token ids of commands: as the first line of an answer, and after a line break.

The two differ. SentencePiece tokenizers write a word at the start of a text with a space mark and right after
a line break without one; byte-level BPE knows no such mark, but merges across a border where it may. So every
command is tokenised behind what will really stand before it, and the result is read back: tokens that do not
spell the command are not used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from erecap.context.tokenize import render_text
from erecap.errors import ModelError

_log = logging.getLogger(__name__)

_ANCHOR = "a"  # a line that stands before the line break; any plain letter does
_CACHED = 200_000  # commands kept; an episode has some thousands


class CommandTokens:
    """Token ids of commands for one tokenizer, each worked out once.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.

    Attributes:
        newline: the id of the line break.
        ends: ids that end the assistant's turn: what the chat template writes there, and the tokenizer's own
            end.

    Raises:
        ModelError: the tokenizer has no single token for a line break, or nothing ends a turn.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        before = self._ids([_ANCHOR, f"{_ANCHOR}\n"])
        breaks = before[1][len(before[0]) :]
        if before[1][: len(before[0])] != before[0] or len(breaks) != 1:
            raise ModelError("the tokenizer has no token of its own for a line break, which plans need")
        self.newline: int = breaks[0]
        asked = [{"role": "user", "content": _ANCHOR}]
        self._header = render_text(asked, tokenizer)  # type: ignore[arg-type]
        self.ends = self._turn_ends()
        self._spelled: dict[str, dict[str, tuple[int, ...] | None]] = {}  # by what stands before

    def first(self, commands: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Ids of commands at the start of an answer. Commands that cannot be spelled are left out."""
        return self.behind(self._header, commands)

    def later(self, commands: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Ids of commands right after a line break. Commands that cannot be spelled are left out."""
        return self.behind(f"{_ANCHOR}\n", commands)

    def behind(self, before: str, commands: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Ids of texts of one line behind the text `before`. Those that cannot be spelled are left out."""
        cache = self._spelled.setdefault(before, {})
        commands = list(dict.fromkeys(commands))
        missing = [command for command in commands if command not in cache]
        if missing:
            if len(cache) + len(missing) > _CACHED:
                cache.clear()
                missing = commands
            cache.update(self._spell(missing, before))
        return {command: ids for command in commands if (ids := cache[command]) is not None}

    def _spell(self, commands: Sequence[str], before: str) -> dict[str, tuple[int, ...] | None]:
        """Ids for each command behind the text `before`; None where no ids read back as the command."""
        tails = self._behind(before, commands)
        for place, tail in enumerate(tails):
            if tail is None:
                # The tokenizer merges across the border, so these tokens cannot follow what the prompt ends
                # with.
                tails[place] = self._behind(f"{_ANCHOR}\n", [commands[place]])[0]
        spelled: dict[str, tuple[int, ...] | None] = {}
        for command, tail, text in zip(commands, tails, self._read_back(tails), strict=True):
            good = text == command and "\n" not in command
            spelled[command] = tuple(tail) if tail and good else None
            if spelled[command] is None:
                _log.warning("the tokenizer cannot write the command %a; it is left out of plans", command)
        return spelled

    def _behind(self, before: str, commands: Sequence[str]) -> list[list[int] | None]:
        """Ids that each command adds to the text `before`; None where it changes the ids of `before`."""
        lead = self._ids([before])[0]
        whole = self._ids([before + command for command in commands])
        return [ids[len(lead) :] if ids[: len(lead)] == lead else None for ids in whole]

    def _read_back(self, tails: Sequence[Sequence[int] | None]) -> list[str]:
        """The text of a line when it is written behind another one, surrounding white space aside."""
        lead = [*self._ids([_ANCHOR])[0], self.newline]
        texts = self._tokenizer.batch_decode(
            [[*lead, *(tail or ())] for tail in tails],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return [text.removeprefix(f"{_ANCHOR}\n").strip(" ") for text in texts]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]

    def _turn_ends(self) -> frozenset[int]:
        ends = set()
        if self._tokenizer.eos_token_id is not None:
            ends.add(int(self._tokenizer.eos_token_id))
        mark = "\ue0f2"
        answered = [{"role": "user", "content": _ANCHOR}, {"role": "assistant", "content": mark}]
        text = render_text(answered, self._tokenizer, add_generation_prompt=False)  # type: ignore[arg-type]
        after = text.partition(mark)[2].strip()
        ids = self._ids([after])[0] if after else []
        # What follows an answer ends the turn only if it is a special token, not the next turn's words.
        if ids and ids[0] in self._tokenizer.added_tokens_decoder:
            ends.add(ids[0])
        if not ends:
            raise ModelError("neither the tokenizer nor its chat template has a token that ends a turn")
        return frozenset(ends)
