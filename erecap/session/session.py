"""`ReplanSession`, one per agent: chat in, plan text out; keys and values stay between calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.budget import Budget
from erecap.config.exits import Exit, ExitChoice
from erecap.context.thinking import thinking_spans
from erecap.decoding.answer import AnswerWatcher, answer_ends, say_ignored_defaults
from erecap.decoding.drafts.choices import RememberedChoices
from erecap.decoding.forced import forced_ids
from erecap.decoding.loop import Decoded, Draft, decode
from erecap.engines.protocol import SessionEngine
from erecap.errors import MessagesError
from erecap.generation import AllowedTokens, Decision, FinishReason, Generation, Message, PromptPiece
from erecap.registries import PRICED_DRAFTS
from erecap.scheduling.rules import Scheduler
from erecap.session.agreement import agreement
from erecap.session.automatic import drop_what_pays
from erecap.session.chat_edits import ChatEdits
from erecap.session.choices import chooser_of, exit_draft, exits_of, sampler_of
from erecap.session.config import SessionConfig, draft_way
from erecap.session.conversation.chat import ChatPart, whole_part
from erecap.session.conversation.conversation import Conversation
from erecap.session.conversation.edit_record import Event
from erecap.session.conversation.protection_spans import Span, numbered
from erecap.session.conversation.transcript import Mark
from erecap.session.drafting import SessionDrafts
from erecap.session.edited import EditedSession
from erecap.session.fit_call import FittedChat, fit_chat
from erecap.session.interrupt import Interrupt, Interrupted
from erecap.session.one_call import OneCall, one_call
from erecap.session.opening import own_engine, ranking_of
from erecap.session.persist import load_session, save_session
from erecap.session.policy import SessionPolicy
from erecap.session.report import CallReport
from erecap.session.schedule_call import schedule, stops_with_plan
from erecap.session.trace import trace_pieces

if TYPE_CHECKING:
    from erecap.cost.model import CostModel
    from erecap.decoding.drafts.texts import DraftMemory
    from erecap.decoding.linear import Weights
    from erecap.tokens.cache.read_scores import ReadScorer
    from erecap.tokens.scoring.schedule import PruneConfig

DEFERRED: FinishReason = "deferred"


class ReplanSession(EditedSession):
    """A conversation that stores its keys and values, reads only new tokens, and stays within its budget.

    A session is composed of a `conversation` (chat to tokens, and the tokens read), a `policy` (what to keep and when
    to edit) and an `engine` (keys and values, forward passes).

    Without `prune` and `budget` every answer is the unmodified model's for the messages given. With them it is the
    answer of the model under the masks that the session's log of reads and evictions implies.

    There are two ways to use it:

    - Every call brings the whole chat: `generate(messages)`, `read(messages)`. The session renders and hashes the
      chat to find its new part, and prefills only that.
    - The session keeps a chat of its own: `append(messages)` prefills new messages, and `generate()` answers and adds
      the answer to the chat. The time of a call then depends on new and stored tokens, not on the chat's length.

    Both may be mixed: a whole chat becomes the session's own.

    Args:
        model: a causal language model of transformers, in eval mode; sessions may share one. Other engines have models
            of their own kind.
        tokenizer: its fast tokenizer, with a chat template.
        budget: a `Budget`, or what `Budget.of` takes: tokens, "auto", or None for no limit.
        prune, evict_by, stale_first, thinking_first, draft, seed, rewind_tokens, retokenize, decode_weights,
            prefill_chunk, scheduler, cost, engine, draft_memory, draft_cost: see the fields of `SessionConfig`.
        exit: an `Exit`, settings such as `{"layer": 20}`, or the name or folder of a predictor that `erecap train exit`
            made; None or False: no early exit.

    Raises:
        ConfigError: no engine of that name, or one that cannot be made.
        ModelError: a trained pruner or exit predictor that is damaged, untested, or of another model.
        ValueError: an argument of another type or out of range, no criterion or pruner of that name, a model, `prune`
            or `decode_weights` that the engine cannot serve, a budget with `pays` without `cost` or with a memory that
            holds next to nothing, an engine that has read something or that another session uses, or a tokenizer of
            another model than that of the engine.

    A session serves one call at a time: one more from another thread is refused by RuntimeError. Forks are sessions of
    their own.
    """

    trace = False  # of the calls with a whole chat that do not ask for it themselves
    measures_loss = False  # note `plan_loss` of each answer; a row of logits more is looked at for each token
    # Mean negative log-likelihood of the last answer's tokens, in nats, where it was measured. Tokens that a constraint
    # left no choice about do not count.
    plan_loss: float | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        prune: PruneConfig | None = None,
        budget: Budget | int | str | None = None,
        evict_by: str | ReadScorer = "recency",
        stale_first: bool = True,
        thinking_first: bool = False,
        draft: bool | str = True,
        seed: int = 0,
        rewind_tokens: int | None = None,
        retokenize: bool = False,
        decode_weights: Weights = "same",
        prefill_chunk: int | None = None,
        scheduler: Scheduler | None = None,
        cost: CostModel | None = None,
        engine: str | SessionEngine = "transformers",
        draft_memory: DraftMemory | None = None,
        draft_cost: CostModel | None = None,
        exit: ExitChoice = None,
    ) -> None:
        self.config = SessionConfig(
            prune, Budget.of(budget), ranking_of(evict_by, model), stale_first, thinking_first, draft, seed,
            rewind_tokens, retokenize, decode_weights, prefill_chunk, scheduler, cost, engine, draft_memory,
            draft_cost, Exit.of(exit),
        )  # fmt: skip
        self.model = model
        self.tokenizer = tokenizer
        self.draft = draft
        self.drafts = SessionDrafts.of(self.config, model)
        self._one_call = OneCall()
        self._revision: int | None = None  # of the model when the stored keys were computed
        self._passes: int | None = None  # forward passes that it took to decode the last answer
        self._compose(
            Conversation(tokenizer, rewind_tokens, retokenize),
            SessionPolicy(self.config),
            own_engine(self.config, model, tokenizer),
        )
        self.policy.check(self.engine)
        self.exits = exits_of(self.config.exit, self.engine, model)
        say_ignored_defaults(model)

    @one_call
    def fork(self, messages: Sequence[Message] | None = None) -> ReplanSession:
        """An independent session with the same beginning, on the same model.

        The stored keys and values are shared, not copied, where the engine can. So a fork costs only its own tokens.
        Its answers are those of a copy up to rounding.

        Args:
            messages: keep only the tokens of this chat, which becomes the fork's own; None: everything.
        """
        twin = copy.copy(self)
        twin._one_call = OneCall()
        twin.drafts = self.drafts.fork()
        twin.exits = None if self.exits is None else self.exits.copy()
        twin._compose(self.conversation.copy(), self.policy.copy(), self.engine.fork())
        if messages is not None:
            part = whole_part(messages, self.tokenizer, header=True)
            known = twin.prefill.reachable(twin.conversation.match(part))
            twin.prefill.roll_back(known, reread=True)
            twin.conversation.chat = self.conversation.chat.becomes(messages)
        return twin

    @one_call
    def save(self, path: str | Path) -> None:
        """Write the conversation and its keys and values to one safetensors file; `restore` reads it back.

        Of the chat's texts only the first messages (up to the first user message) and the newest are written, unless
        its template rewrites earlier messages.

        Raises:
            RunError: the file cannot be written.
        """
        save_session(Path(path), self.engine, self.conversation)

    @one_call
    def restore(self, path: str | Path) -> None:
        """Become the session that was saved in `path`; only for a session that has read nothing yet.

        Raises:
            RunError: no such file, a damaged one, or one of another model.
            ValueError: this session has read something already.
        """
        if self.conversation.transcript.tokens:
            raise ValueError("restore needs a new session; this one has read something already")
        engine, conversation = self.engine.fork(), self.conversation.fresh()
        load_session(Path(path), engine, conversation)
        self._compose(conversation, self.policy, engine)

    @one_call
    def close(self) -> None:
        """Free the stored keys and values and forget the conversation."""
        self.drafts = self.drafts.fresh()
        self._compose(self.conversation.fresh(), self.policy, self.engine)
        self.engine.reset()  # last: an engine that has read more than its conversation is rolled back

    def reset(self) -> None:
        """Begin another episode, as a `LanguageModel` does: the same as `close`."""
        self.close()

    # Calls ------------------------------------------------------------------------------------------------

    @one_call
    def append(self, messages: Sequence[Message], *, stale: Sequence[Span] = ()) -> int:
        """Add new messages to the session's own chat, and prefill them; `generate()` answers then.

        The session's answers are part of the chat. Where `messages` begins with one of the assistant, it takes the
        place of the session's own answer: a host may hand back what it made of it. Messages of the assistant that
        nothing follows yet are read with what follows.

        Args:
            messages: those that are new, oldest first.
            stale: characters `(message, start, end)` of earlier messages that these make stale; `message` counts
                the chat's messages from 0, answers included.

        Returns:
            Tokens read.

        Raises:
            BudgetError: as for `read`; the chat is then as before.
            ConfigError: spans that do not lie in their messages.
            ModelError: the chat template refuses the messages. Some do so for a system message without a user message.
            RunError: the end of the chat is no longer among the tokens read, after an edit that failed.
        """
        chat, part = self.conversation.chat.going_on(messages, False, stale)
        read = self.prefill.take(part) if part is not None else 0
        self.conversation.chat = chat
        self._tidy()
        self.drafts.follow(self.draft, self.conversation)
        return read

    @one_call
    def read(self, messages: Sequence[Message], *, edits: ChatEdits | None = None) -> int:
        """Prefill a chat up to the end of its last message without answering it, as far as it was not read before.

        Lets an agent read observations while its body moves; the next `generate` then has less to do.

        Args:
            edits: as of `generate`; those behind the last message are made by the next call.

        Returns:
            Tokens read.

        Raises:
            BudgetError: system and goal exceed the budget, or the chat the window where nothing may be evicted.
            MessagesError: edits that cannot be made.
        """
        return self._read(messages, self._events(messages, edits))

    def _read(self, messages: Sequence[Message], events: Sequence[Event] | None = None) -> int:
        read = self.prefill.take(whole_part(messages, self.tokenizer, header=False), events)
        self.conversation.chat = self.conversation.chat.becomes(messages)
        self._tidy()
        self.drafts.follow(self.draft, self.conversation)
        return read

    @one_call
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
        force: str | None = None,
        edits: ChatEdits | None = None,
    ) -> Generation:
        """Answer `messages`, with a prefill of the new tokens only.

        Arguments that are not described here are those of `TransformersLanguageModel.generate`.

        Args:
            messages: the whole chat; None: the session's own, see `append`. Asked again without anything appended, it
                answers again, and replaces its last answer.
            draft: text that the answer may repeat, beside the previous answer and the newest message.
            min_new_tokens: the answer does not end by itself before; for measurements of equal length.
            old_plan: the rest of the previous plan, as the answer would write it. It is verified in one pass, as far
                as the answer repeats it. A scheduler may decide that the answer ends with it (`reuse-plan`, needs
                `draft`), and defer the call only while some of it is left.
            trigger: why the call is made, for the scheduler's reasons.
            force: the text of the answer, which `allowed_tokens` must allow. The model reads and decodes as if it had
                chosen it: for measuring what such a call takes.
            deadline_ms, cancel: asked between prefill chunks as well; a call that ends there has no text, and the
                session keeps the messages that it has read to their end.
            trace: also return which share of the layers stored each piece of the chat (`Generation.pieces`); only with
                a whole chat.
            edits: the edit list of a whole chat. The answer is that of a session which read the chat under this list
                from its beginning; what has to be read again for that is. None: the edits in force stay.

        Raises:
            BudgetError: system and goal exceed the budget or the window; with `edits`, no message is left out for it.
            MessagesError: edits that cannot be made.
            ValueError: `max_new_tokens` out of range, nothing to answer, `trace` or `edits` without a whole chat, or a
                text to force that has more than `max_new_tokens` tokens with its end.
        """
        trace = trace or (self.trace and messages is not None)
        report = CallReport(self.conversation, self.policy, self.engine)
        events = self._events(messages, edits)
        fitted = self._fit(messages, max_new_tokens, trace, events)
        self.policy.room, self.policy.said = max_new_tokens, []
        part, known = fitted.part, self.conversation.match(fitted.part)
        report.matched()
        watcher = AnswerWatcher(self.tokenizer, stop or (), report.started, deadline_ms, cancel, on_text)
        interrupt = Interrupt(report.started, deadline_ms, cancel)
        ends = answer_ends(self.model, self.tokenizer)
        left = self.tokenizer(old_plan, add_special_tokens=False)["input_ids"] if old_plan else []
        pick = sampler_of(temperature, top_p, seed)
        if pick is not None and self.exits is not None and not self.exits.lossless:
            raise ValueError("early exit without verification decodes greedily: use lossless, or temperature 0")
        if allowed_tokens is not None and draft_way(self.draft) in PRICED_DRAFTS:
            allowed_tokens = RememberedChoices(allowed_tokens)
        forced = None if force is None else forced_ids(force, self.tokenizer, ends, max_new_tokens)
        try:
            ids, marks, reused = self.prefill.enter(part, known, answering=True, events=events)
            decision = self._schedule(
                part, marks, len(ids), reused, report.rewritten(reused), max_new_tokens, len(left), trigger
            )
            if decision is not None and decision.action == "defer":
                return Generation("", DEFERRED, *report.deferred(), decision=decision)
            if decision is not None and decision.action == "re-read":
                ids, marks, reused = self.prefill.enter(part, 0, answering=True, anew=True, events=events)
            is_plan = stops_with_plan(decision, left)
            self._drop_what_pays(part, marks, len(ids), max_new_tokens)
            with self.engine.attached():
                logits = self.prefill.read(ids, marks, part, max_new_tokens, interrupt)
                again = self.prefill.again
                report.prefilled(reused - again, len(ids) + again)
                exits = exit_draft(self.exits, ends, self.conversation.transcript.ids)
                decoded = decode(
                    self.engine,
                    logits,
                    max_new_tokens=max_new_tokens,
                    pick=pick,
                    allowed=allowed_tokens,
                    draft=self._draft(left, draft, ids, allowed_tokens, ends, max_new_tokens),
                    exits=exits,
                    chooser=chooser_of(self.engine, ends),
                    not_before=(min_new_tokens, ends),
                    force=forced,
                    losses=self.measures_loss,
                    ended=lambda out: out[-1] in ends or is_plan(out) or watcher.stopped(out),
                )
        except Interrupted as ended:
            # The messages that were read to their end stay read.
            self.prefill.roll_back(len(self.conversation.transcript.marks))
            return Generation("", ended.reason, *report.deferred())
        except BaseException:
            self.drafts.forget()
            # Tokens read of the new messages have no mark yet: forget them, and keep what the last call stored.
            self.prefill.roll_back(len(self.conversation.transcript.marks))
            raise
        report.decoded()
        self.plan_loss = sum(decoded.losses) / len(decoded.losses) if decoded.losses else None
        text, reason = watcher.result(decoded.ids, ends)
        pieces = self._traced(part) if trace else ()
        self._remember(fitted, text, decoded, ends)
        self.policy.said = [(part.count, *span) for span in thinking_spans({"role": "assistant", "content": text})]
        self.prefill.enforce(part)
        self._tidy()
        usage, timing = report.finished(decoded, fitted.dropped, fitted.truncated, self.prefill.edited, exits)
        if self.scheduler is not None and decision is not None:
            self.scheduler.observe(decision, timing.total_ms)
        because = self.policy.why_dropped(self.engine, decision, usage)
        return Generation(text, "stop" if is_plan(decoded.ids) else reason, usage, timing, pieces, decision, because)

    # Steps of a call --------------------------------------------------------------------------------------

    def _events(self, messages: Sequence[Message] | None, edits: ChatEdits | None) -> list[Event] | None:
        """The edits of a whole chat; None: those in force."""
        if edits is None:
            return None
        if messages is None:
            raise ValueError("edits number the messages of a whole chat; give it")
        fixed = self.engine.why_fixed if edits.reposition else None
        if fixed is not None:
            raise MessagesError(f"reposition: {fixed}; leave it out")
        return edits.events(messages)

    def _fit(
        self, messages: Sequence[Message] | None, max_new_tokens: int, trace: bool, events: Sequence[Event] | None
    ) -> FittedChat:
        """The chat to answer: the session's own, or the given one, cut to the window if need be."""
        window = self.engine.window
        if not 1 <= max_new_tokens < window:
            raise ValueError(f"max_new_tokens must be from 1 to {window - 1}, got {max_new_tokens}")
        if messages is not None and events:  # a message left out would change the numbers of the others
            return FittedChat(self.conversation.chat.becomes(messages), whole_part(messages, self.tokenizer, True))
        if messages is not None:
            return fit_chat(messages, self.conversation, self.policy, self.engine, max_new_tokens)
        own = FittedChat(*self.conversation.own_part())
        if trace:
            raise ValueError("trace shows the whole chat; give it")
        return own

    def _schedule(
        self,
        part: ChatPart,
        marks: Sequence[Mark],
        new: int,
        reused: int,
        rewritten: int,
        max_new_tokens: int,
        old_plan_tokens: int,
        trigger: str | None,
    ) -> Decision | None:
        """The scheduler's decision, with evicting and repositioning done; None without one."""
        return schedule(
            self.policy,
            self.engine,
            self.conversation.transcript,
            part,
            marks,
            new=new,
            reused=reused,
            rewritten=rewritten,
            plan_tokens=self._plan_tokens(max_new_tokens),
            plan_passes=self._passes,
            old_plan_tokens=old_plan_tokens,
            trigger=trigger,
        )

    def _plan_tokens(self, max_new_tokens: int) -> int:
        """Tokens that the answer will probably have: those of the last one."""
        return min(max_new_tokens, len(self.conversation.previous) or max_new_tokens)

    def _drop_what_pays(self, part: ChatPart, marks: Sequence[Mark], new: int, max_new_tokens: int) -> None:
        """Evict before the prefill where the budget asks for it and the cost model says that it pays."""
        drop_what_pays(
            self.policy,
            self.engine,
            self.conversation.transcript,
            part,
            marks,
            new=new,
            plan_tokens=self._plan_tokens(max_new_tokens),
            passes=self._passes,
        )

    def _draft(
        self,
        left: list[int],
        given: str | None,
        new: list[int],
        allowed: AllowedTokens | None,
        ends: Sequence[int],
        tokens: int,
    ) -> Draft | None:
        """Proposals for decoding: the old plan's rest, then what followed the newest tokens before."""
        ids = self.tokenizer(given, add_special_tokens=False)["input_ids"] if given else []
        return self.drafts.draft(
            self.draft, self.conversation, plan=left, given=ids, new=new, stored=self.engine.stored().most,
            allowed=allowed, ends=ends, tokens=tokens,
        )  # fmt: skip

    def _traced(self, part: ChatPart) -> tuple[PromptPiece, ...]:
        contents = [message["content"] for _, message in sorted(numbered(part.claims).items())]
        marks = self.conversation.transcript.known_marks
        return trace_pieces(part, contents, marks, self.engine.stored(), self.engine.tokens)

    def _remember(self, fitted: FittedChat, text: str, decoded: Decoded, ends: Sequence[int]) -> None:
        """Make the answer part of chat and transcript; the engine rolls back tokens that are not its text."""
        stored = len(decoded.ids) - decoded.unread
        self.conversation.remember(fitted.part, text, decoded.ids, stored, ends)
        if self.engine.tokens > self.conversation.transcript.tokens:
            self.engine.rollback(self.conversation.transcript.tokens)
        self.drafts.answered(self.draft, decoded.ids)
        self._passes = max(1, decoded.passes)
        self.conversation.chat = fitted.chat.answered(text)

    def _tidy(self) -> None:
        """Forget messages of which no token is stored; done now and then, for it looks at all messages."""
        if self.conversation.transcript.wants_tidying:
            self.conversation.tidy(self.engine.stored().indices.tolist())

    # Questions and other settings -------------------------------------------------------------------------

    @one_call
    def still_valid(self, plan: str, messages: Sequence[Message] | None = None) -> float:
        """Return True if `plan` is still what the model would answer to `messages`, in one pass over its tokens.

        Costs a prefill of the new tokens and of the plan, instead of decoding a plan token by token. The session reads
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
            self._read(messages)
            part = whole_part(messages, self.tokenizer, header=True)
        else:
            part = self.conversation.own_part()[1]
        return agreement(self.prefill, part, wanted)

    @one_call
    def leave_early(self, exit: ExitChoice) -> None:
        """Decode with another early exit from now on; what was learned of the one before is forgotten.

        Args:
            exit: as in `ReplanSession(exit=...)`.

        Raises:
            ConfigError, ModelError, ValueError: as of a new session; the session then decodes as before.
        """
        settings = Exit.of(exit)
        if settings == self.config.exit:
            return
        state = exits_of(settings, self.engine, self.model)
        self.exits, self.config = state, replace(self.config, exit=settings)

    @one_call
    def limit(self, budget: Budget | int | str | None) -> int:
        """Give the session another budget from now on, and evict down to it; what was evicted before stays so.

        Args:
            budget: as in `ReplanSession(budget=...)`.

        Returns:
            Tokens evicted.

        Raises:
            ValueError: no budget, one with `pays`, or one that the engine cannot keep.
            BudgetError: system and goal exceed it; the session then has its old budget.
        """
        old, new = self.policy.budget, Budget.of(budget)
        if new.pays is not None and new != old:
            raise ValueError("a budget with pays cannot be given to an open session; make one with it")
        before = self.policy.evicted
        self.policy.budget = new
        try:
            self.policy.check(self.engine)
            if not self.conversation.chat.empty:
                self.prefill.enforce(self.conversation.own_part()[1])
        except BaseException:
            self.policy.budget = old
            raise
        return self.policy.evicted - before
