"""Agreement of changed models with the dense planner on plans of the expert, teacher-forced, call by call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.context.protection import protected_spans
from erecap.context.tokenize import encode_from, render_prompt, render_text
from erecap.decoding.stopping import answer_ends
from erecap.errors import ConfigError
from erecap.evaluation.comparison import Measure, measure_all
from erecap.evaluation.items import Items
from erecap.evaluation.subjects import Scores, Subject, digest, scores_of, share_of
from erecap.generation import JsonRow, Message
from erecap.session.teacher_forcing import plan_logits
from erecap.tuning.samples import Transcript, asked, recorded

KIND = "agreement"
KEYS = ("choices", "nats", "kept")
MEASURES = (
    Measure("same tokens", "%", "same", "compared", scale=100, better="higher", only_changed=True),
    Measure("plans that differ", "%", "differ", "plans", scale=100, only_changed=True),
    Measure("plan NLL", "nats a token", "loss", "compared", digits=4),
)


@dataclass(frozen=True)
class Call:
    """One planning call of a transcript."""

    messages: int  # that it sees, from the first one on
    plan: tuple[int, ...]  # tokens of the expert's plan, and the end of the answer


@dataclass(frozen=True)
class Transcribed:
    """An episode's chat with the calls that are compared."""

    chat: Sequence[Message]
    calls: tuple[Call, ...]


def episodes_of(
    transcripts: Iterable[Transcript], model: Any, tokenizer: Any, episodes: int | None, calls: int | None
) -> list[Transcribed]:
    """Episodes as token ids.

    Args:
        episodes: at most this many; None: all.
        calls: at most this many of an episode, evenly spread; None: all.

    Raises:
        ConfigError: no plan among them.
    """
    end = answer_ends(model, tokenizer)[0]
    found: list[Transcribed] = []
    for transcript in transcripts:
        if episodes is not None and len(found) == episodes:
            break
        plans = [(place, plan.strip()) for place, plan in sorted(transcript.plans) if plan.strip() and place > 0]
        if calls is not None and len(plans) > calls:
            plans = [plans[number * len(plans) // calls] for number in range(calls)]
        if plans:
            found.append(
                Transcribed(transcript.messages, tuple(_call(transcript, *plan, tokenizer, end) for plan in plans))
            )
    if not found:
        raise ConfigError("evaluate agreement: no episode has a plan to compare")
    return found


def _call(transcript: Transcript, place: int, plan: str, tokenizer: Any, end: int) -> Call:
    text = render_text(transcript.messages[:place], tokenizer)
    return Call(place, (*encode_from(tokenizer, text + plan, len(text)).ids, end))


def collected(folder: Path, seed: int) -> Iterable[Transcript]:
    """Transcripts of a folder of `erecap collect`, in an order drawn from `seed`."""
    return recorded(folder, seed)


def generated(suite: str, episodes: int, folder: Path) -> Iterable[Transcript]:
    """Transcripts of the expert in the first episodes of a suite, which are played into `folder` unless they lie there.

    Raises:
        ConfigError: no such suite, or its games cannot be played.
        EnvironmentUnavailable: its simulator is missing.
    """
    from erecap.config import load_suite
    from erecap.training.collect.collect import collect
    from erecap.training.collect.episode import Recipe

    loaded = load_suite(suite)
    result = collect(Recipe(episodes=episodes), {loaded.name: loaded}, folder)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return recorded(folder, 0)


def agreement(
    subjects: Sequence[Subject], episodes: Sequence[Transcribed], items: Items, say: Callable[[str], None]
) -> tuple[list[list[JsonRow | None]], JsonRow]:
    """Compare the plans of all episodes.

    Sessions read each episode once, as it grows. A mode that prunes without a session reads every call anew.

    Returns:
        For each subject its episodes in order; and what was read.
    """

    def ask(subject: Subject, episode: Transcribed) -> JsonRow:
        key = digest([[call.messages, call.plan] for call in episode.calls] + [_texts(episode.chat)])
        found = items.get(subject.key, key)
        if found is None:
            found = items.add(subject.key, key, _measure(subject, episode))
        return found

    rows = [[row or {} for row in own] for own in measure_all(subjects, episodes, ask, say)]
    read = {
        "episodes": len(episodes),
        "plans": sum(len(episode.calls) for episode in episodes),
        "tokens": sum(len(call.plan) for episode in episodes for call in episode.calls),
        "digest": digest([[_texts(episode.chat), [call.plan for call in episode.calls]] for episode in episodes]),
    }
    together = [
        [all(row["choices"][number] is not None for row in column) for number in range(len(column[0]["choices"]))]
        for column in zip(*rows, strict=True)
    ]
    read["past_the_window"] = sum(readable.count(False) for readable in together)
    return [
        [_against(row, dense, readable) for row, dense, readable in zip(own, rows[0], together, strict=True)]
        for own in rows
    ], read


def _measure(subject: Subject, episode: Transcribed) -> JsonRow:
    """A row: for each call the most probable tokens and the loss; None where the chat outgrew the window."""
    sessions = subject.sessions
    if sessions is not None:
        sessions.reset()
    found: list[Scores | None] = []
    for call in episode.calls:
        messages = asked(episode.chat[: call.messages])
        if sessions is None:
            found.append(_anew(subject, messages, call))
            continue
        logits = plan_logits(sessions.session, messages, call.plan[:-1])
        engine = sessions.session.engine
        kept = share_of(engine.stored().per_layer, engine.tokens)
        found.append(None if logits is None else scores_of(logits, call.plan, subject.name, kept))
    kept_shares = [scores.kept for scores in found if scores is not None and scores.kept is not None]
    return {
        "choices": [None if scores is None else list(scores.choices) for scores in found],
        "nats": [None if scores is None else scores.nats for scores in found],
        "kept": sum(kept_shares) / len(kept_shares) if kept_shares and subject.drops else None,
    }


def _anew(subject: Subject, messages: Sequence[Message], call: Call) -> Scores | None:
    prompt = render_prompt(messages, subject.opened.tokenizer)
    if len(prompt.input_ids) + len(call.plan) > subject.window:
        return None
    return subject.scores(prompt.input_ids, call.plan, prompt.token_spans(protected_spans(messages)))


def _against(row: JsonRow, dense: JsonRow, readable: Sequence[bool]) -> JsonRow | None:
    """Sums over the calls that every subject could read; None where there is none."""
    pairs = [
        (row["choices"][number], dense["choices"][number], row["nats"][number])
        for number, could in enumerate(readable)
        if could
    ]
    if not pairs:
        return None
    return {
        "kept": row["kept"],
        "plans": len(pairs),
        "compared": sum(len(own) for own, _, _ in pairs),
        "same": sum(a == b for own, other, _ in pairs for a, b in zip(own, other, strict=True)),
        "differ": sum(own != other for own, other, _ in pairs),
        "loss": math.fsum(nats for _, _, nats in pairs),
    }


def _texts(chat: Sequence[Message]) -> list[list[str]]:
    return [[message["role"], message["content"]] for message in chat]
