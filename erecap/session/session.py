"""`ReplanSession`: one per agent. Chat in, plan text out; keys and values stay between calls."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erecap.budget import Budget
from erecap.context.fit import fit_messages
from erecap.context.protection import protected_spans
from erecap.context.tokenize import ChatText, Prompt, render_chat, render_prompt
from erecap.decoding.draft import LookupDraft
from erecap.decoding.loop import decode
from erecap.errors import RunError
from erecap.generation import StopWatcher, answer_ends, sampler
from erecap.protocols import AllowedTokens, Generation, Message, Timing, Usage
from erecap.session.digest import RunningDigest
from erecap.session.edits import SessionEdits
from erecap.session.persist import load_session, save_session
from erecap.session.reader import SessionReader
from erecap.session.trace import trace_pieces
from erecap.session.transcript import Mark, Transcript
from erecap.tokens.schedule import PruneConfig


class ReplanSession(SessionEdits):
    """Keeps what it has read, reads only what is new, and stays within its budget.

    Without `prune` and `budget` every answer is the unmodified model's for the messages given. With them it is the
    answer of the model under the masks that the session's log of reads and evictions implies.

    Args:
        model: a causal language model of transformers, in eval mode; sessions may share one.
        tokenizer: its fast tokenizer, with a chat template.
        prune: how many tokens reach the deeper layers while reading; None: all.
        budget: how many tokens stay stored; None: all.
        evict_by: what ranks tokens that nothing protects: `recency`, `random` (fixed when a token is read), or
            `attention` (mass that the newest token of the prompt pays it, taken anew at each call).
        stale_first: evict what the messages call `stale` before anything else.
        draft: propose tokens from the previous answer and the newest message; answers stay the same, sampled ones
            with the same seed too.
        seed: for `random`.
        rewind_tokens: see `Transcript`.

    Raises:
        ValueError: `prune` does not fit the model, or an unknown `evict_by`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        prune: PruneConfig | None = None,
        budget: Budget | None = None,
        evict_by: str = "recency",
        stale_first: bool = True,
        draft: bool = True,
        seed: int = 0,
        rewind_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.draft = draft
        self.budget = budget or Budget()
        self._reader = SessionReader(model, prune, self.budget, evict_by, seed, stale_first)
        self._transcript = Transcript(rewind_tokens)
        self._previous: list[int] = []  # ids of the last answer, the draft of the next

    # What is known ----------------------------------------------------------------------------------------

    @property
    def token_ids(self) -> list[int]:
        """Ids read so far, generated ones as they were generated; without those let go (`rewind_tokens`)."""
        return list(self._transcript.ids)

    @property
    def cache(self) -> Any:
        """The `PrunedCache` behind the session."""
        return self._reader.cache

    def fork(self) -> ReplanSession:
        """An independent session that has read the same, on the same model. Copies the stored keys and values."""
        twin = copy.copy(self)
        twin._reader = self._reader.fork()
        twin._transcript = self._transcript.copy()
        return twin

    def save(self, path: str | Path) -> None:
        """Write what was read and is stored to one safetensors file; `restore` reads it back."""
        state = {"previous": self._previous, "pending": self._reader.pending, "shift": self._reader.shift}
        state["model"] = _shape(self.model)
        save_session(Path(path), self.cache, self._transcript, state)

    def restore(self, path: str | Path) -> None:
        """Become the session that was saved in `path`; only for a session that has read nothing yet.

        Raises:
            RunError: no such file, a damaged one, or one of another model.
            ValueError: this session has read something already.
        """
        if self._transcript.tokens:
            raise ValueError("restore needs a new session; this one has read something already")
        reader, transcript = self._reader.fork(), Transcript(self._transcript.rewind_tokens)
        state = load_session(Path(path), reader.cache, transcript)
        if state["model"] != _shape(self.model):
            raise RunError(f"{Path(path).name}: saved from model {state['model']}, this one is {_shape(self.model)}")
        reader.pending, reader.shift = state["pending"], state["shift"]
        self._reader, self._transcript, self._previous = reader, transcript, state["previous"]

    def close(self) -> None:
        """Free the stored keys and values and forget what was read."""
        self._transcript = Transcript(self._transcript.rewind_tokens)
        self._reader.back_to(0)
        self._reader.cache.reset()
        self._previous = []

    # Calls ------------------------------------------------------------------------------------------------

    def read(self, messages: Sequence[Message]) -> int:
        """Read a chat up to the end of its last message without answering it, as far as it was not read before.

        Lets an agent read observations while its body moves; the next `generate` then has less to do.

        Returns:
            Tokens read.

        Raises:
            BudgetError: system and goal exceed the budget, or the chat the window where nothing may be evicted.
        """
        rendered = render_chat(messages, self.tokenizer, add_generation_prompt=False)
        chat = ChatText(rendered.text[: rendered.spans[-1][1]], rendered.spans, rendered.skipped)
        known = self._transcript.matched(chat.text)
        spans = protected_spans(messages)
        try:
            self._go_back(known, reread=True)
            ids, marks = self._tokenize(chat, known)
            if ids:
                with self._reader.attached():
                    self._reader.prefill(ids, marks, self._transcript, messages, spans, 0)
        except BaseException:
            self._go_back(len(self._transcript.marks))
            raise
        self._reader.enforce(self._transcript, messages, spans)
        return len(ids)

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
        draft: str | None = None,
        deadline_ms: float | None = None,
        cancel: Callable[[], bool] | None = None,
        trace: bool = False,
        min_new_tokens: int = 0,
    ) -> Generation:
        """Answer `messages`, reading only what was not read before; arguments as for `HFLanguageModel.generate`.

        Args:
            draft: text that the answer may repeat, beside the previous answer and the newest message.
            min_new_tokens: the answer does not end by itself before; for measurements of equal length.
            trace: also return which share of the layers stored each piece of the chat (`Generation.pieces`).

        Raises:
            BudgetError: system and goal exceed the budget or the window.
            ValueError: `max_new_tokens` out of range.
        """
        started = time.perf_counter()
        if not 1 <= max_new_tokens < self._reader.window:
            raise ValueError(f"max_new_tokens must be from 1 to {self._reader.window - 1}, got {max_new_tokens}")
        fitted, dropped, truncated = self._fit(messages, max_new_tokens)
        chat = render_chat(fitted, self.tokenizer)
        known = self._transcript.matched(chat.text)
        matched = time.perf_counter()
        reused = self._transcript.marks[known - 1].tokens if known else 0
        rewritten = self._transcript.tokens - reused
        evicted, pruning = self._reader.evicted, self._prune_seconds()
        spans = protected_spans(fitted)
        watcher = StopWatcher(self.tokenizer, 0, stop or (), started, deadline_ms, cancel)
        ends = answer_ends(self.model, self.tokenizer)
        pick = sampler(temperature, top_p, seed, self.model.device) if temperature > 0 else None
        try:
            self._go_back(known, reread=True)
            ids, marks = self._tokenize(chat, known)
            with self._reader.attached():
                logits = self._reader.prefill(ids, marks, self._transcript, fitted, spans, max_new_tokens)
                prefilled = time.perf_counter()
                kept = tuple(self.cache.kept_lengths())
                pruned = self._prune_seconds() - pruning
                sources = self._sources(draft, ids) if self.draft else []
                decoded = decode(
                    self._reader,
                    logits,
                    max_new_tokens=max_new_tokens,
                    pick=pick,
                    allowed=allowed_tokens,
                    draft=LookupDraft(sources) if sources else None,
                    not_before=(min_new_tokens, ends),
                    ended=lambda out: out[-1] in ends or watcher.stopped(out),
                )
        except BaseException:
            # Whatever was read of the new messages has no mark yet: forget it, keep what the last call left.
            self._go_back(len(self._transcript.marks))
            raise
        decoded_at = time.perf_counter()
        text, reason = watcher.result(decoded.ids, ends)
        contents = [message["content"] for message in fitted]
        pieces = trace_pieces(chat, contents, self._transcript.marks, self.cache) if trace else ()
        self._remember(chat, len(fitted), text, decoded.ids, decoded.unread, ends)
        self._reader.enforce(self._transcript, fitted, spans)
        ended_at = time.perf_counter()
        usage = Usage(
            prompt_tokens=reused + len(ids),
            new_tokens=len(ids),
            reused_tokens=reused,
            completion_tokens=len(decoded.ids),
            kept_per_layer=kept,
            kv_bytes=self.cache.kv_bytes(),
            overflow_messages=dropped,
            truncated_tokens=truncated,
            evicted_tokens=self._reader.evicted - evicted,
            rewritten_tokens=rewritten,
            drafted_tokens=decoded.drafted,
            accepted_tokens=decoded.accepted,
        )
        timing = Timing(
            tokenize_ms=1e3 * (matched - started),
            prefill_ms=1e3 * (prefilled - matched),
            prune_ms=1e3 * pruned,
            decode_ms=1e3 * (decoded_at - prefilled),
            total_ms=1e3 * (ended_at - started),
        )
        return Generation(text, reason, usage, timing, pieces)

    def still_valid(self, plan: str, messages: Sequence[Message]) -> float:
        """Whether `plan` is still what the model would answer to `messages`, in one pass over its tokens.

        Costs a prefill of what is new and of the plan, instead of decoding a plan token by token. The session reads
        `messages` and is otherwise as before.

        Returns:
            Share of the plan's tokens that are the model's greedy choice, each after those before it; 1.0 means that
            greedy decoding would repeat the plan.

        Raises:
            ValueError: an empty plan.
            BudgetError: as for `read`.
        """
        wanted = self.tokenizer(plan, add_special_tokens=False)["input_ids"]
        if not wanted:
            raise ValueError("an empty plan has no tokens to agree with")
        self.read(messages)
        chat = render_chat(messages, self.tokenizer)
        header, _ = self._tokenize(chat, self._transcript.matched(chat.text))
        try:
            with self._reader.attached():
                rows = self._reader.probe([*header, *wanted])
        finally:
            self._go_back(len(self._transcript.marks))
        choices = rows[len(header) - 1 : -1].argmax(-1).tolist()
        return sum(a == b for a, b in zip(choices, wanted, strict=True)) / len(wanted)

    # Parts ------------------------------------------------------------------------------------------------

    def _go_back(self, marks: int, reread: bool = False) -> None:
        """Forget what was read after the first `marks` marks; corrections among it are read again if asked to."""
        if marks == len(self._transcript.marks) and self._transcript.ends_with_mark(self.cache.get_seq_length()):
            return
        # The unread rest of the last answer is still due, unless that answer goes too.
        pending = self._reader.pending if marks == len(self._transcript.marks) else []
        lost = self._transcript.cut(marks)
        self._reader.back_to(self._transcript.tokens)
        self._reader.pending = pending
        if lost and reread:
            self._reader.read_overlay(lost)
            self._transcript.overlay(lost)

    def _fit(self, messages: Sequence[Message], max_new_tokens: int) -> tuple[list[Message], int, int]:
        """With a budget the session outlives the window; without one, the chat must be cut to it."""
        if self.budget.tokens(1 << 30) is not None:
            return list(messages), 0, 0

        def count(part: Sequence[Message]) -> int:
            return len(render_prompt(part, self.tokenizer).input_ids)

        # Bytes bound tokens from above, so that short chats need not be tokenised to know that they fit.
        most = 64 + sum(len(message["content"].encode("utf-8", "replace")) + 32 for message in messages)
        if most < self._reader.window - max_new_tokens:
            return list(messages), 0, 0
        fitted = fit_messages(messages, count, self._reader.window - max_new_tokens)
        return fitted.messages, fitted.dropped, fitted.truncated_tokens

    def _tokenize(self, chat: ChatText, known: int) -> tuple[list[int], list[Mark]]:
        """Ids of the chat's text after the first `known` marks, and a mark at the end of each message in it."""
        base = self._transcript.marks[known - 1] if known else None
        start = base.characters if base else 0
        pending = self._reader.pending  # generated by the last call, not read yet, and part of the text before
        rest = chat.text[start:]
        encoded = self.tokenizer(rest, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = list(encoded["input_ids"]), [(low, high) for low, high in encoded["offset_mapping"]]
        done = base.message + 1 if base else 0
        places = [(max(0, begin - start), max(0, end - start)) for begin, end in chat.spans]
        prompt = Prompt(rest, ids, places, offsets, chat.skipped)
        first = self._transcript.tokens + len(pending)
        marks = []
        for message in range(done, len(places)):
            begin, end = chat.spans[message]
            skipped = chat.skipped[message]
            low, high = prompt.token_span(message, skipped, skipped + end - begin)
            starts = tuple(offsets[n][0] - places[message][0] + skipped for n in range(low, high))
            aligned = high == 0 or offsets[high - 1][1] <= places[message][1]
            digest = RunningDigest().update(chat.text[:end]).digest()
            marks.append(Mark(message, end, digest, first + high, aligned, first + low, starts))
        return pending + ids, marks

    def _prune_seconds(self) -> float:
        return self.cache.prune_seconds + self._reader.evict_seconds

    def _sources(self, draft: str | None, new_ids: list[int]) -> list[list[int]]:
        given = self.tokenizer(draft, add_special_tokens=False)["input_ids"] if draft else []
        return [given, self._previous, new_ids]

    def _remember(
        self, chat: ChatText, messages: int, text: str, ids: list[int], unread: int, ends: Sequence[int]
    ) -> None:
        """Keep the answer's own tokens as the next message, where they are exactly its text."""
        content = list(ids)
        while content and content[-1] in ends:
            content.pop()
        # A stop text may begin inside the answer's last tokens: drop whole tokens until the text fits.
        while content and len(self.tokenizer.decode(content, skip_special_tokens=True)) > len(text):
            content.pop()
        stored = len(ids) - unread
        self._previous = content
        if self.tokenizer.decode(content, skip_special_tokens=True) != text:
            content = []
        if len(content) < stored:
            self._reader.take_back(stored - len(content))
        self._reader.pending = content[stored:] if len(content) > stored else []
        whole = chat.text + text
        first = self._transcript.tokens
        self._transcript.extend(content[:stored])
        if content:
            mark = Mark(
                messages, len(whole), RunningDigest().update(whole).digest(), self._transcript.tokens, first=first
            )
            self._transcript.marks.append(mark)


def _shape(model: Any) -> str:
    """What must agree for saved keys to fit: enough to tell models apart without hashing their weights."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    return f"{config.model_type}-{config.num_hidden_layers}x{config.hidden_size}-{heads}-{config.vocab_size}"
