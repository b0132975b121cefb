"""Episodes that grow far past the model's window: time of a replan, and agreement of its plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from erecap.bench.replan.calls import answer, floor_message, steady
from erecap.bench.replan.history import Count, wander
from erecap.budget import Budget
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.generation import JsonRow, Message
from erecap.session.session import ReplanSession

EARLY, BEFORE, BEYOND, LATE = STRETCHES = ("early", "before", "beyond", "late")


@dataclass(frozen=True)
class EpisodeBench:
    """Settings of `erecap bench episode`."""

    tokens: int = 20_000  # of an episode
    new_tokens: int = 100  # of a turn
    plan_tokens: int = 32  # generated in every measured replan, no more and no fewer
    kv_tokens: int = 1024
    early: int = 1000  # tokens at which the first replans are measured, for flatness
    early_points: int = 5
    before_points: int = 12  # in the last quarter before the window is exceeded
    beyond_points: int = 24  # from there to the end
    episodes: int = 2
    seed: int = 0  # of the first episode; those after it count up


def episode_bench(
    bench: EpisodeBench, model: Any, tokenizer: Any, say: Callable[[str], None] = lambda text: None
) -> JsonRow:
    """`raw` rows, one per measured replan.

    In each episode one session reads turn by turn and evicts; a measured replan goes on from a copy of it. Beside it
    stands its floor, and the share of its plan's tokens that the model also finds most probable when it reads the
    tokens that were stored afresh, at consecutive positions, and then the plan.

    Texts differ in how sure a plan is, so the calls beyond the window are measured a second time, in the stretch
    `late`: by sessions that began so late in the same text that they are in the last quarter of their window there.

    Raises:
        ConfigError: episodes that do not pass the window, or early points beyond it.
    """
    window = model.config.get_text_config(decoder=True).max_position_embeddings
    edge = window - 2 * bench.new_tokens - bench.plan_tokens  # tokens of the longest chat whose call still fits
    if not bench.early < edge - window // 4 or bench.tokens <= window + 2 * bench.new_tokens:
        raise ConfigError(
            f"tokens must exceed the model's window of {window} by two turns, and early points lie before its last "
            f"quarter; got tokens {bench.tokens}, early {bench.early}"
        )
    if bench.episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {bench.episodes}")
    raw: list[JsonRow] = []
    for number in range(bench.episodes):
        one = replace(bench, seed=bench.seed + number)
        raw += [{"episode": number, **row} for row in _episode(one, model, tokenizer, window, edge, say)]
    return {"raw": raw, "window": window}


def _episode(
    bench: EpisodeBench, model: Any, tokenizer: Any, window: int, edge: int, say: Callable[[str], None]
) -> list[JsonRow]:
    quarter = edge - window // 4
    places = [
        *_places(EARLY, bench.early, bench.early + bench.early_points * bench.new_tokens, bench.early_points),
        *_places(BEFORE, quarter, edge, bench.before_points),
        *_places(BEYOND, window, bench.tokens - bench.new_tokens, bench.beyond_points),
    ]

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    def measured(session: ReplanSession, chat: Sequence[Message], stretch: str) -> JsonRow:
        row = {"stretch": stretch, **_measured(bench, model, tokenizer, session, chat, count)}
        say(f"{stretch}, {row['read']} tokens read: {row['total_ms'] / 1e3:.2f} s, agreement {row['agreement']:.2f}")
        return row

    def begin() -> ReplanSession:
        return ReplanSession(model, tokenizer, budget=Budget(kv_tokens=bench.kv_tokens), draft=False, seed=bench.seed)

    messages = wander(bench.tokens, count, turn_tokens=bench.new_tokens, seed=bench.seed)
    session, raw = begin(), list[JsonRow]()
    reads: dict[int, int] = {}  # messages of the chat -> tokens read
    beyond: list[int] = []  # messages read before each call beyond the window
    for end in range(3, len(messages), 2):
        session.read(messages[:end])
        reads[end] = session.cache.get_seq_length()
        if not places or reads[end] < places[0][1]:
            continue
        stretch, _ = places.pop(0)
        if not raw:
            _measured(bench, model, tokenizer, session, messages[: end + 1], count)  # warm-up
        raw.append({"place": end, **measured(session, messages[: end + 1], stretch)})
        beyond += [end] if stretch == BEYOND else []
    while beyond:
        # So much after the goal is left out that the first call comes at the beginning of the window's last quarter.
        behind = reads[beyond[0]] - quarter + reads[3]
        left_out = next((end for end, read in reads.items() if read >= behind), beyond[0]) - 1
        left_out = min(left_out, beyond[0] - 1)
        chat, session, reached = [*messages[:2], *messages[left_out:]], begin(), len(raw)
        while beyond:
            end = beyond[0] - left_out + 2
            session.read(chat[:end])
            if session.cache.get_seq_length() > edge:
                break
            raw.append({"place": beyond.pop(0), **measured(session, chat[: end + 1], LATE)})
        if len(raw) == reached:
            raise ConfigError(f"goal and one turn of {bench.new_tokens} tokens fill the model's window of {window}")
    return raw


def _measured(
    bench: EpisodeBench, model: Any, tokenizer: Any, session: ReplanSession, chat: Sequence[Message], count: Count
) -> JsonRow:
    """The replan that the last message of `chat` asks for, from a copy of `session`, which has read all before it."""
    chat = [*chat[:-1], _newest(chat[-1])]
    stored = session.cache.stored_index().tolist()
    read = session.cache.get_seq_length()
    alone = floor_message(tokenizer, chat[:-1], chat[-1], count)
    twin = session.fork()
    with steady() as collect:
        generation = answer(twin, chat, bench.plan_tokens)
        collect()
        floor = answer(ReplanSession(model, tokenizer, draft=False), [alone], bench.plan_tokens)
    # The plan's last token was generated, not read: reading the plan as a message brings it in.
    twin.read([*chat, {"role": "assistant", "content": generation.text, "protect": []}])
    ids = twin.token_ids
    prompt = read + generation.usage.new_tokens
    plan = ids[prompt : prompt + bench.plan_tokens]
    agreement = fresh_agreement(model, [*(ids[place] for place in stored), *ids[read:prompt]], plan)
    return {
        "read": read,
        "stored": len(stored),
        "new_tokens": generation.usage.new_tokens,
        "total_ms": generation.timing.total_ms,
        "floor_ms": floor.timing.total_ms,
        "floor_tokens": floor.usage.new_tokens,
        "agreement": agreement,
        "compared": len(plan),
    }


def fresh_agreement(model: Any, kept: Sequence[int], plan: Sequence[int]) -> float:
    """Share of `plan` that is the model's greedy choice after a fresh prefill of `kept`, teacher-forced."""
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor([[*kept, *plan]], device=model.device), use_cache=False, logits_to_keep=len(plan) + 1
        )
    choices = output.logits[0, :-1].argmax(-1).tolist()
    return sum(a == b for a, b in zip(choices, plan, strict=True)) / len(plan)


def _places(stretch: str, start: float, end: float, points: int) -> list[tuple[str, float]]:
    return [(stretch, start + (end - start) * number / points) for number in range(points)]


def _newest(message: Message) -> Message:
    return {**message, "protect": [(0, len(message["content"]))]}
