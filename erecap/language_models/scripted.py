"""A scripted language model, for tests, examples, and trying out an environment."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError, ModelError
from erecap.generation import AllowedTokens, FinishReason, Generation, Message, Timing, Usage

# A token is a word with the white space before it, so that the tokens of a text join up to the text.
_TOKEN = re.compile(r"\s*\S+|\s+")


class ScriptedModel:
    """A deterministic `LanguageModel`. Nothing in it is random, and it never looks at a clock.

    Args:
        script: answers in order, one a call; or a function from messages to the answer.
        repeat: start the script again when it is used up. Otherwise one call too many is a ModelError.
        tokenizer: a fast Hugging Face tokenizer with a chat template. With it, tokens are its tokens, and
            `allowed_tokens` is obeyed: the scripted token is taken if it is allowed; from the first one that
            is not, the model takes the lowest allowed id each time and ends the turn as soon as it may.
            Without it, a token is a word, and `allowed_tokens` is a ModelError, since there are no ids to
            choose from.
        token_ms: milliseconds that a generated token is said to take. They fill `timing` and run against
            `deadline_ms`; nobody waits for them.

    The script decides the text, so `temperature`, `top_p` and `seed` make no difference.

    Example:
        >>> model = ScriptedModel(["open fridge 1"])
        >>> model.generate([{"role": "user", "content": "Goal: cool the apple"}], max_new_tokens=8).text
        'open fridge 1'
    """

    def __init__(
        self,
        script: Sequence[str] | Callable[[Sequence[Message]], str],
        *,
        repeat: bool = False,
        tokenizer: Any = None,
        token_ms: float = 0.0,
    ) -> None:
        if isinstance(script, str):
            raise ConfigError("script is one text; give a list of texts, or a function of the messages")
        if not callable(script) and not script:
            raise ConfigError("script is empty; give at least one text")
        self._script = script
        self._repeat = repeat
        self.tokenizer = tokenizer
        self.takes_old_plan = False
        self.trace = False  # it has no layers, so its generations have no pieces
        self._token_ms = token_ms
        self._lock = threading.Lock()
        self.calls: list[list[Message]] = []  # the messages of every call, oldest first

    def reset(self) -> None:
        """Begin an episode. The script goes on: its answers are in the order of the calls."""

    def fork(self, messages: Sequence[Message]) -> ScriptedModel:
        """The model itself: it remembers no conversation, and its script is one for all."""
        return self

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        stop: Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        allowed_tokens: AllowedTokens | None = None,
        deadline_ms: float | None = None,
        cancel: Callable[[], bool] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """The next answer of the script, within the limits of the call.

        It ends before the first text of `stop`. The finish reason is "cancelled" if `cancel()` was true
        before a token, "deadline" if the next token would pass `deadline_ms`, "length" if `max_new_tokens`
        came first. `on_text` is called with the answer so far after each token that does not end it.

        Raises:
            ConfigError: `max_new_tokens` is below 1.
            ModelError: the script is used up, or `allowed_tokens` is given and there is no tokenizer.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more")
        if allowed_tokens is not None and self.tokenizer is None:
            raise ModelError("allowed_tokens needs token ids; give ScriptedModel a tokenizer")
        answer = self._answer(messages)
        pieces = _Words(answer) if self.tokenizer is None else _Ids(answer, self.tokenizer, allowed_tokens)
        finish: FinishReason = "length"
        count = 0
        while True:
            if cancel is not None and cancel():
                finish = "cancelled"
                break
            if deadline_ms is not None and (count + 1) * self._token_ms > deadline_ms:
                finish = "deadline"
                break
            # The end of the turn is a token too, but a text that is complete at the limit was not cut.
            ended = pieces.ended(count)
            if ended or count == max_new_tokens:
                finish = "stop" if ended else "length"
                break
            pieces.advance()
            count += 1
            if _first_stop(pieces.text(), stop) is not None:
                finish = "stop"
                break
            if on_text is not None:
                on_text(pieces.text())
        text = pieces.text()
        text = text[: _first_stop(text, stop)]
        prompt = self._prompt_tokens(messages)
        elapsed = count * self._token_ms
        usage = Usage(prompt_tokens=prompt, new_tokens=prompt, completion_tokens=count)
        return Generation(text, finish, usage, Timing(decode_ms=elapsed, total_ms=elapsed))

    def _answer(self, messages: Sequence[Message]) -> str:
        with self._lock:
            call = len(self.calls)
            self.calls.append([message.copy() for message in messages])
        if callable(self._script):
            return self._script(messages)
        if call >= len(self._script) and not self._repeat:
            raise ModelError(f"the script has {len(self._script)} answers, and this is call {call + 1}")
        return self._script[call % len(self._script)]

    def _prompt_tokens(self, messages: Sequence[Message]) -> int:
        if self.tokenizer is not None:
            return len(render_prompt(messages, self.tokenizer).input_ids)
        return sum(len(message["content"].split()) for message in messages)


class _Words:
    """An answer word by word."""

    def __init__(self, answer: str) -> None:
        self._tokens = _TOKEN.findall(answer)
        self._taken = 0

    def ended(self, count: int) -> bool:
        return count == len(self._tokens)

    def advance(self) -> None:
        self._taken += 1

    def text(self) -> str:
        return "".join(self._tokens[: self._taken])


class _Ids:
    """An answer token by token, limited to the allowed ids."""

    def __init__(self, answer: str, tokenizer: Any, allowed: AllowedTokens | None) -> None:
        self._tokenizer = tokenizer
        self._allowed = allowed
        self._wanted: list[int] = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
        self._taken: list[int] = []
        self._astray = False
        self._next: int | None = None

    def ended(self, count: int) -> bool:
        end = self._tokenizer.eos_token_id
        wanted = self._wanted[count] if count < len(self._wanted) else end
        self._next = wanted
        if self._allowed is not None:
            allowed = self._allowed(self._taken)
            if self._astray or wanted not in allowed:
                self._astray = True
                self._next = end if end in allowed else min(allowed)
        return self._next == end

    def advance(self) -> None:
        assert self._next is not None
        self._taken.append(self._next)

    def text(self) -> str:
        return self._tokenizer.decode(self._taken, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _first_stop(text: str, stop: Sequence[str] | None) -> int | None:
    """Where the first of the `stop` texts begins in `text`."""
    places = [place for word in stop or () if word and (place := text.find(word)) >= 0]
    return min(places, default=None)
