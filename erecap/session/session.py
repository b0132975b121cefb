"""`ReplanSession`: one per agent. Chat in, plan text out; keys and values stay between calls."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erecap.budget import Budget
from erecap.cost.model import CostModel
from erecap.decoding.linear import Weights
from erecap.decoding.loop import decode
from erecap.decoding.stopping import StopWatcher, answer_ends, sampler
from erecap.engines.transformers import TransformersEngine
from erecap.errors import RunError
from erecap.generation import AllowedTokens, Decision, Generation, Message, Timing, Usage
from erecap.scheduling.rules import Scheduler
from erecap.session.automatic import drop_what_pays
from erecap.session.conversation.chat import ChatPart, SessionChat, whole_part
from erecap.session.conversation.protection_spans import Span
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.session.edits import SessionEdits
from erecap.session.persist import load_session, save_session
from erecap.session.schedule_call import PlanDraft, apply, decide, look, put_off, stops_with_plan
from erecap.tokens.cache.read_scores import ReadScorer
from erecap.tokens.scoring.by_name import scorer_for
from erecap.tokens.scoring.schedule import PruneConfig


class ReplanSession(SessionEdits):
    """Keeps what it has read, reads only what is new, and stays within its budget.

    Without `prune` and `budget` every answer is the unmodified model's for the messages given. With them it is the
    answer of the model under the masks that the session's log of reads and evictions implies.

    There are two ways to use it. Either every call brings the whole chat (`generate(messages)`, `read(messages)`), and
    the session finds what of it is new: it renders and hashes all of it, and tokenises and reads what is new. Or the
    session keeps a chat of its own: `append(messages)` reads new messages, `generate()` answers, and the answer becomes
    part of the chat. Then a call costs what is new and what is stored, however long the chat has become. Both may be
    mixed: a whole chat becomes the session's own.

    Args:
        model: a causal language model of transformers, in eval mode; sessions may share one.
        tokenizer: its fast tokenizer, with a chat template.
        prune: how many tokens reach the deeper layers while reading; None: all.
        budget: how many tokens stay stored; None: all, and of a whole chat that outgrows the window the oldest messages
            are left out. `Budget.auto()` drops nothing while the chat fits the window, and evicts beyond it.
        evict_by: what ranks tokens that nothing protects: `recency`, `random` (fixed when a token is read), or
            `attention` (mass that the newest token of the prompt pays it, taken anew at each call); the name or folder
            of a trained pruner, or another object that scores each token once, when it is read (`ReadScorer`).
        stale_first: evict what the messages call `stale` before anything else.
        draft: propose tokens that followed the newest ones before, in the answer itself, the previous one, the newest
            message and what was read of late; answers stay the same, sampled ones with the same seed too.
        seed: for `random`.
        rewind_tokens: how far back a chat may be rewritten without being read anew. Ids, marks and corrections that
            are older are let go; without it the session remembers the ids of everything it has read.
        retokenize: the ids read are exactly those of the whole rendered chat, tokenised at once (corrections aside),
            whenever an answer begins. An answer whose own tokens are not the tokens of its text is then read again from
            where they differ. Without it answers stay as they were generated.
        decode_weights: precision of the weights while decoding: `same` as the model's, or packed copies in `int8` or
            `int4` (a CPU reads fewer bytes per token then; answers may differ a little; see `FusedDecoder`).
        prefill_chunk: tokens read at once (None: 512); more need more memory, fewer take longer.
        scheduler: decides call by call whether to evict, close up, read anew, or put the call off; None: the session
            evicts down to its budget when a call ends, and closes up when the window is full.
        cost: the calibrated cost model of this model on this machine (`erecap.cost.store.load_cost_model`), which a
            budget with `pays` asks.

    Raises:
        ValueError: `prune` does not fit the model, an unknown `evict_by`, `decode_weights` that the model cannot have,
            a budget with `pays` without `cost`, or with a memory that holds next to nothing.
        ModelError: a trained pruner that is damaged, untested, or of another model.
    """

    trace = False  # of the calls with a whole chat that do not ask for it themselves

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        prune: PruneConfig | None = None,
        budget: Budget | None = None,
        evict_by: str | ReadScorer = "recency",
        stale_first: bool = True,
        draft: bool = True,
        seed: int = 0,
        rewind_tokens: int | None = None,
        retokenize: bool = False,
        decode_weights: Weights = "same",
        prefill_chunk: int | None = None,
        scheduler: Scheduler | None = None,
        cost: CostModel | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.draft = draft
        self.budget = budget or Budget()
        self._reader = TransformersEngine(
            model,
            prune,
            self.budget,
            scorer_for(evict_by, model),
            seed,
            stale_first,
            decode_weights,
            prefill_chunk,
            cost,
        )
        self._transcript = Transcript(rewind_tokens)
        self._chat = SessionChat(tokenizer)
        self._retokenize = retokenize
        self.scheduler = scheduler
        self._previous: list[int] = []  # ids of the last answer, the draft of the next
        self._passes: int | None = None  # forward passes that it took to decode it

    # What is known ----------------------------------------------------------------------------------------

    @property
    def takes_old_plan(self) -> bool:
        """Whether a planner should hand over `old_plan` and `trigger`: a scheduler decides by them."""
        return self.scheduler is not None

    @property
    def token_ids(self) -> list[int]:
        """Ids read so far, generated ones as they were generated; without those let go (`rewind_tokens`)."""
        return list(self._transcript.ids)

    @property
    def evicted_tokens(self) -> int:
        """Tokens of what was read that are stored no longer, in the layer that stores most.

        It follows from the cache, so it is right after every call, edit, roll-back and restore; 0 says that everything
        read is still stored. Tokens that pruning kept from the deeper layers are not evicted.
        """
        return self.cache.get_seq_length() - max(self.cache.kept_lengths(), default=0)

    @property
    def outlives_window(self) -> bool:
        """Whether it evicts where a chat outgrows the model's window, instead of leaving messages out."""
        return self._reader.outlives_window

    def fork(self, messages: Sequence[Message] | None = None) -> ReplanSession:
        """An independent session that has read the same, on the same model.

        The stored keys and values are shared, not copied: a fork costs what it reads itself. Its answers are those of a
        copy up to rounding.

        Args:
            messages: keep only what was read of this chat, which becomes the fork's own; None: everything.
        """
        twin = copy.copy(self)
        twin._reader = self._reader.fork()
        twin.scheduler = copy.copy(self.scheduler)
        twin._transcript = self._transcript.copy()
        if messages is not None:
            part = whole_part(messages, self.tokenizer, header=True)
            twin._go_back(twin._transcript.matched(part.unseen, part.before), reread=True)
            twin._chat = self._chat.becomes(messages)
        return twin

    def save(self, path: str | Path) -> None:
        """Write what was read and is stored to one safetensors file; `restore` reads it back.

        Of the chat's texts only the first messages (up to the first user message) and the newest are written, unless
        its template rewrites earlier messages.
        """
        state = {"previous": self._previous, "pending": self._reader.pending, "shift": self._reader.shift}
        state |= {"model": _shape(self.model), "chat": self._chat.to_json()}
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
        self._chat = SessionChat.from_json(self.tokenizer, state["chat"])

    def close(self) -> None:
        """Free the stored keys and values and forget what was read."""
        self._transcript = Transcript(self._transcript.rewind_tokens)
        self._reader.back_to(0)
        self._reader.cache.reset()
        self._chat = SessionChat(self.tokenizer)
        self._previous = []

    def reset(self) -> None:
        """Begin another episode, as a `LanguageModel` does: the same as `close`."""
        self.close()

    # Calls ------------------------------------------------------------------------------------------------

    def append(self, messages: Sequence[Message], *, stale: Sequence[Span] = ()) -> int:
        """Add new messages to the session's own chat, and read them; `generate()` answers then.

        The session's answers are part of the chat. Where `messages` begins with one of the assistant, it takes the
        place of the session's own answer: a host may hand back what it made of it. Messages of the assistant that
        nothing follows yet are read with what follows.

        Args:
            messages: those that are new, oldest first.
            stale: characters `(message, start, end)` of earlier messages that these make worthless; `message` counts
                the chat's messages from 0, answers included.

        Returns:
            Tokens read.

        Raises:
            BudgetError: as for `read`; the chat is then as before.
            ConfigError: spans that do not lie in their messages.
            ModelError: the chat template refuses the messages. Some do so for a system message without a user message.
            RunError: the end of the chat is not among what was read any more, after an edit that failed.
        """
        chat, part = self._chat.going_on(messages, False, stale)
        read = self._take(part) if part is not None else 0
        self._chat = chat
        self._tidy()
        return read

    def read(self, messages: Sequence[Message]) -> int:
        """Read a chat up to the end of its last message without answering it, as far as it was not read before.

        Lets an agent read observations while its body moves; the next `generate` then has less to do.

        Returns:
            Tokens read.

        Raises:
            BudgetError: system and goal exceed the budget, or the chat the window where nothing may be evicted.
        """
        read = self._take(whole_part(messages, self.tokenizer, header=False))
        self._chat = self._chat.becomes(messages)
        self._tidy()
        return read

    def generate(
        self,
        messages: Sequence[Message] | None = None,
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
        on_text: Callable[[str], None] | None = None,
        trace: bool = False,
        min_new_tokens: int = 0,
        old_plan: str | None = None,
        trigger: str | None = None,
    ) -> Generation:
        """Answer `messages`, reading only what was not read before.

        Arguments that are not described here are those of `TransformersLanguageModel.generate`.

        Args:
            messages: the whole chat; None: the session's own, see `append`. Asked again without anything appended, it
                answers anew in place of its last answer.
            draft: text that the answer may repeat, beside the previous answer and the newest message.
            min_new_tokens: the answer does not end by itself before; for measurements of equal length.
            old_plan: what is left of the plan before, as the answer would write it. It is verified in one pass, as far
                as the answer repeats it. A scheduler may decide that the answer ends with it (`reuse-plan`, needs
                `draft`), and put the call off only while some of it is left.
            on_text: called with the answer so far as more of it becomes certain, without what may begin a stop text.
            trigger: why the call is made, for the scheduler's reasons.
            trace: also return which share of the layers stored each piece of the chat (`Generation.pieces`); only with
                a whole chat.

        Raises:
            BudgetError: system and goal exceed the budget or the window.
            ValueError: `max_new_tokens` out of range, nothing to answer, or `trace` without a whole chat.
        """
        started = time.perf_counter()
        trace = trace or (self.trace and messages is not None)
        if not 1 <= max_new_tokens < self._reader.window:
            raise ValueError(f"max_new_tokens must be from 1 to {self._reader.window - 1}, got {max_new_tokens}")
        if messages is None:
            if self._chat.empty:
                raise ValueError("nothing to answer; append messages first, or give the whole chat")
            if trace:
                raise ValueError("trace shows the whole chat; give it")
            chat, part = self._chat.going_on((), True)
            dropped = truncated = 0
        else:
            chat, part, dropped, truncated = self._fit(messages, max_new_tokens)
        assert part is not None, "with a header there is always something to read"
        self._reader.room = max_new_tokens
        known = self._transcript.matched(part.unseen, part.before)
        matched = time.perf_counter()
        tokens = self._transcript.tokens
        evicted, pruning = self._reader.evicted, self._prune_seconds()
        watcher = StopWatcher(self.tokenizer, 0, stop or (), started, deadline_ms, cancel, on_text)
        ends = answer_ends(self.model, self.tokenizer)
        pick = sampler(temperature, top_p, seed, self.model.device) if temperature > 0 else None
        try:
            ids, marks, reused = self._enter(part, known, answering=True)
            left = self.tokenizer(old_plan, add_special_tokens=False)["input_ids"] if old_plan else []
            decision = self._scheduled(
                part,
                marks,
                new=len(ids),
                reused=reused,
                rewritten=tokens - reused,
                plan_tokens=min(max_new_tokens, len(self._previous) or max_new_tokens),
                plan_passes=self._passes,
                old_plan_tokens=len(left),
                trigger=trigger,
            )
            if decision is not None and decision.action == "defer":
                spent = 1e3 * (time.perf_counter() - started)
                return put_off(decision, self._reader, 1e3 * (matched - started), spent)
            if decision is not None and decision.action == "re-read":
                ids, marks, reused = self._enter(part, 0, answering=True)
            reused_plan = stops_with_plan(decision, left)
            drop_what_pays(
                self._reader,
                self._transcript,
                part.claims,
                part.protected,
                marks,
                new=len(ids),
                plan_tokens=min(max_new_tokens, len(self._previous) or max_new_tokens),
                passes=self._passes,
            )
            with self._reader.attached():
                logits = self._reader.prefill(ids, marks, self._transcript, part.claims, part.protected, max_new_tokens)
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
                    draft=PlanDraft(left, sources, self._transcript.ids) if self.draft else None,
                    not_before=(min_new_tokens, ends),
                    ended=lambda out: out[-1] in ends or reused_plan(out) or watcher.stopped(out),
                )
        except BaseException:
            # Whatever was read of the new messages has no mark yet: forget it, keep what the last call left.
            self._go_back(len(self._transcript.marks))
            raise
        decoded_at = time.perf_counter()
        text, reason = watcher.result(decoded.ids, ends)
        if reused_plan(decoded.ids):
            reason = "stop"
        pieces = self._traced(part) if trace else ()
        self._remember(part, text, decoded.ids, decoded.unread, ends)
        self._passes = max(1, decoded.passes)
        self._chat = chat.answered(text)
        self._reader.enforce(self._transcript, part.claims, part.protected)
        self._tidy()
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
            rewritten_tokens=tokens - reused,
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
        if self.scheduler is not None and decision is not None:
            self.scheduler.observe(decision, timing.total_ms)
        because = self._why_dropped(decision, usage)
        return Generation(text, reason, usage, timing, pieces, decision, because)

    def _scheduled(self, part: ChatPart, marks: Sequence[Mark], **call: Any) -> Decision | None:
        """What the scheduler decided for a call (see `look`), with evicting and closing up done; None without one."""
        if self.scheduler is None:
            return None
        state = look(self._reader, self._transcript, part, **call)
        decision = decide(self.scheduler, self._reader, self._transcript, state)
        apply(decision, self.scheduler, state, self._reader, self._transcript, part, marks)
        return decision

    def still_valid(self, plan: str, messages: Sequence[Message] | None = None) -> float:
        """Whether `plan` is still what the model would answer to `messages`, in one pass over its tokens.

        Costs a prefill of what is new and of the plan, instead of decoding a plan token by token. The session reads
        `messages` (None: its own chat) and is otherwise as before.

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
        if messages is not None:
            self.read(messages)
            part = whole_part(messages, self.tokenizer, header=True)
        else:
            part = self._own_part()
        known = self._transcript.matched(part.unseen, part.before)
        self._go_back(known, reread=True)
        header, _ = self._tokenize(part, known)
        try:
            self._make_room(len(header) + len(wanted), part)
            with self._reader.attached():
                rows = self._reader.probe([*header, *wanted])
        finally:
            self._go_back(len(self._transcript.marks))
        choices = rows[len(header) - 1 : -1].argmax(-1).tolist()
        return sum(a == b for a, b in zip(choices, wanted, strict=True)) / len(wanted)


def _shape(model: Any) -> str:
    """What must agree for saved keys to fit: enough to tell models apart without hashing their weights."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    return f"{config.model_type}-{config.num_hidden_layers}x{config.hidden_size}-{heads}-{config.vocab_size}"
