"""A subject as a language model of lm-eval. Imports that package, so it is imported where it is known to be there.

Tokens, windows and the token in front of a text without context are those of lm-eval's own model of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from erecap.errors import ConfigError
from erecap.evaluation.items import Items
from erecap.evaluation.subjects import Subject, digest
from erecap.generation import JsonRow, Message
from erecap.serving.raw_text import as_lines

DEFAULT_TOKENS = 256  # of an answer whose task does not say


class HarnessModel(TemplateLM):
    """Answers the requests of lm-eval with a subject; every answer is kept as an item.

    Args:
        subject: what is judged.
        items: answers that are known are taken from there.
        cut: leave out the oldest tokens of a context beyond the window, as lm-eval does; else it is an error.
        say: told about progress.

    Raises:
        ConfigError: a tokenizer without an end of text.
    """

    def __init__(self, subject: Subject, items: Items, *, cut: bool, say: Callable[[str], None]) -> None:
        super().__init__()
        self.subject, self.tokenizer = subject, subject.opened.tokenizer
        self._cut_requests = self._cut_tokens = 0
        self._kept: list[float] = []
        self._items, self._cut, self._say = items, cut, say
        if self.tokenizer.eos_token_id is None:
            raise ConfigError("lm-eval: the tokenizer names no end of text, which its tasks need")

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        begins = self.tokenizer.bos_token_id
        return self.eot_token_id if begins is None else int(begins)

    @property
    def max_length(self) -> int:
        """Tokens of the model's window."""
        return self.subject.window

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            options = {"add_special_tokens": False}  # a chat template has written it
        return list(self.tokenizer.encode(string, **options))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        pairs = [self._fitted(list(context), list(continuation)) for _, context, continuation in requests]
        answers = [self._scored(*pair, number, len(pairs)) for number, pair in enumerate(pairs, start=1)]
        return [(answer["logprob"], answer["greedy"]) for answer in answers]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        found = []
        for number, request in enumerate(requests, start=1):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            # Scored behind all tokens of its window before it, of which the last one belongs to the context.
            pairs = [make_disjoint_window(pair) for pair in windows]
            scored = [self._scored(context, scored, number, len(requests)) for context, scored in pairs]
            found.append(sum(answer["logprob"] for answer in scored))
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        asked = [self._prompt(*request.args) for request in requests]
        return [self._answered(*one, number, len(asked)) for number, one in enumerate(asked, start=1)]

    def counts(self) -> JsonRow:
        """Requests and tokens that were cut, and the mean share of the contexts that was stored."""
        kept = sum(self._kept) / len(self._kept) if self._kept else None
        return {"cut_requests": self._cut_requests, "cut_tokens": self._cut_tokens, "kept": kept}

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        over = len(context) + len(continuation) - 1 - self.max_length  # the last token is scored, and never read
        if over <= 0:
            return context, continuation
        if not self._cut or over >= len(context):
            raise ConfigError(
                f"lm-eval: {len(context):,} tokens of context and {len(continuation):,} to score pass the model's "
                f"window of {self.max_length:,}; --cut leaves out the oldest of the context, as lm-eval does"
            )
        self._count_cut(over)
        return context[over:], continuation

    def _prompt(self, context: str, options: dict[str, Any]) -> tuple[str, list[str], int]:
        asked = normalize_gen_kwargs(options, DEFAULT_TOKENS)
        if asked.get("do_sample"):
            raise ConfigError("lm-eval: a task asks for sampled answers; answers here are greedy (do_sample: false)")
        until = [str(stop) for stop in asked.get("until") or []]
        ids, tokens = self.tok_encode(context), int(asked["max_gen_toks"])
        over = len(ids) + tokens - self.max_length
        if over > 0:
            if not self._cut or over >= len(ids):
                raise ConfigError(
                    f"lm-eval: a prompt of {len(ids):,} tokens and an answer of {tokens:,} pass the model's window of "
                    f"{self.max_length:,}; --cut leaves out the oldest of the prompt, as lm-eval does"
                )
            self._count_cut(over)
            context = self.tokenizer.decode(ids[over:])
        return context, until, tokens

    def _count_cut(self, tokens: int) -> None:
        self._cut_requests, self._cut_tokens = self._cut_requests + 1, self._cut_tokens + tokens

    def _scored(self, context: Sequence[int], continuation: Sequence[int], number: int, of: int) -> JsonRow:
        key = digest(["score", list(context), list(continuation)])
        found = self._items.get(self.subject.key, key)
        if found is None:
            scores = self.subject.scores(context, continuation)
            greedy = list(scores.choices) == list(continuation)
            row = {"logprob": -scores.nats, "greedy": greedy, "tokens": len(continuation), "kept": scores.kept}
            found = self._items.add(self.subject.key, key, row)
        self._done(found, number, of)
        return found

    def _answered(self, text: str, until: list[str], tokens: int, number: int, of: int) -> str:
        key = digest(["answer", text, until, tokens])
        found = self._items.get(self.subject.key, key)
        if found is None:
            messages = self._pieces(text)
            answer = self.subject.answer(messages, max_new_tokens=tokens, stop=until, raw=True)
            usage = answer.usage
            kept = usage.kept_tokens / max(1, usage.prompt_tokens) if self.subject.drops else None
            found = self._items.add(self.subject.key, key, {"text": answer.text, "kept": kept})
        self._done(found, number, of)
        return str(found["text"])

    def _pieces(self, text: str) -> list[Message]:
        pieces = as_lines(text)
        left = self.subject.protected_characters(text)
        for piece in reversed(pieces):
            size = len(piece["content"])
            if left <= 0:
                break
            piece["protect"] = [(max(0, size - left), size)]
            left -= size
        return pieces

    def _done(self, row: JsonRow, number: int, of: int) -> None:
        self._kept += [] if row["kept"] is None else [row["kept"]]
        self._say(f"{self.subject.name}: {number} of {of}")
