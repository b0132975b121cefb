"""A replanning call of several agents at once on vLLM: with its prefix cache, and with kept tokens from the connector.

Both sides are requests to one vLLM in this process, which runs those of all agents together. They read the same new
turn, which is another one in each repetition, and answer with as many tokens. With the prefix cache a prompt is the
whole history; with the connector it is what a session keeps of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from erecap.bench.llamacpp.ids import token_ids
from erecap.bench.replan.calls import floor_message, steady
from erecap.bench.replan.ceilings import ratio
from erecap.bench.replan.history import cut, next_turn, wander
from erecap.bench.results import Figure, result_row
from erecap.bench.sides import FLOOR, OURS, side_summary, totals
from erecap.context.tokenize import render_prompt
from erecap.engines.vllm.engine import VllmEngine
from erecap.engines.vllm.kept import Answer, Ask
from erecap.engines.vllm.model import VllmModel
from erecap.engines.vllm.wire import Asked
from erecap.errors import ConfigError, RunError
from erecap.generation import JsonRow, Message
from erecap.session.session import ReplanSession

PREFIX = "prefix cache"
LENGTH, AGENTS = 7500, 8  # that R9-speed and R9-blocks are defined for
Save = Callable[[list[JsonRow], dict[str, float]], None]


@dataclass(frozen=True)
class AgentsBench:
    """Settings of `erecap bench vllm`."""

    agents: int = AGENTS
    length: int = LENGTH  # tokens of each one's history
    new_tokens: int = 100  # of the turn that is new
    plan_tokens: int = 32  # generated for each, no more and no fewer
    repetitions: int = 5
    kv_tokens: int = 1024
    seed: int = 0


@dataclass
class _Agent:
    """One agent's history, and the session that has read it."""

    number: int
    history: list[Message]
    session: ReplanSession

    def ids(self, new: Message, tokenizer: Any) -> tuple[list[int], list[int]]:
        return token_ids(self.history, new, tokenizer)


def agents_bench(
    bench: AgentsBench,
    model: VllmModel,
    say: Callable[[str], None] = lambda text: None,
    *,
    done: Sequence[JsonRow] = (),
    read_s: dict[str, float] | None = None,
    save: Save = lambda rows, read_s: None,
) -> JsonRow:
    """Time all sides, in turn.

    Args:
        done: rows of repetitions that were timed before, with the same settings.
        read_s: what it took then to read the histories; they are read again where repetitions are missing.
        save: gets all rows and `read_s` after each repetition.

    Returns:
        `raw`, one row a timed call of all agents, and what was read.

    Raises:
        ConfigError: settings that cannot be measured.
        RunError: the prefix cache does not hold the histories, or vLLM has failed.
    """
    tokenizer = model.tokenizer

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    if bench.length + 3 * bench.new_tokens + bench.plan_tokens > model.window:
        raise ConfigError(f"a history of {bench.length} tokens does not fit the window of {model.window} with its turn")
    raw = list(done)
    first = 1 + max((row["repetition"] for row in raw), default=-1)
    agents: list[_Agent] = []
    if first < bench.repetitions or read_s is None:
        read_s = {PREFIX: 0.0, OURS: 0.0}
    turns = [next_turn(bench.new_tokens, count, seed=bench.seed + number) for number in range(bench.repetitions + 1)]
    for number in range(bench.agents if first < bench.repetitions else 0):
        history = cut(
            wander(bench.length, count, turn_tokens=bench.new_tokens, seed=bench.seed + number), bench.length, count
        )
        session = ReplanSession(model, tokenizer, engine="vllm", budget=bench.kv_tokens, draft=False, seed=bench.seed)
        agent = _Agent(number, history, session)
        say(f"agent {number + 1} of {bench.agents}: its history is read by a session")
        read_s[OURS] += _seconds(lambda agent=agent: agent.session.read(agent.history))  # type: ignore[misc]
        agents.append(agent)
    for agent in agents:  # after the sessions, whose reading would push it out of the prefix cache
        say(f"agent {agent.number + 1} of {bench.agents}: its history is read whole")
        ids = agent.ids(turns[0], tokenizer)[0]
        read_s[PREFIX] += _seconds(lambda agent=agent, ids=ids: model.ask([_whole(agent, ids, 1)]))  # type: ignore[misc]
    sides: dict[str, Callable[[Message], list[Answer]]] = {
        PREFIX: lambda new: model.ask(
            [_whole(agent, list(chain(*agent.ids(new, tokenizer))), bench.plan_tokens) for agent in agents]
        ),
        OURS: lambda new: _kept(model, agents, new, bench.plan_tokens),
        FLOOR: lambda new: model.ask([_alone(agent, new, count, tokenizer, bench.plan_tokens) for agent in agents]),
    }
    with steady() as collect:
        for repetition in (-1, *range(first, bench.repetitions)):
            for name, side in sides.items() if agents else ():
                collect()
                started = time.perf_counter()
                answers = side(turns[repetition + 1])
                took = time.perf_counter() - started
                _check(name, answers, bench, model)
                if repetition >= 0:  # the first one warms up all sides
                    raw.append(
                        {
                            "mode": name, "repetition": repetition, "total_ms": 1e3 * took,
                            "blocks": statistics.mean(answer.blocks for answer in answers),
                            "cached": statistics.mean(answer.cached for answer in answers),
                        }
                    )  # fmt: skip
            if agents and repetition >= 0:
                save(raw, read_s)
                say(f"{repetition + 1} of {bench.repetitions} repetitions")
    return {"raw": raw, "read_s": read_s, "model": model.shape, "block": model.block}


def _whole(agent: _Agent, ids: list[int], most: int) -> Ask:
    return Ask(ids, Asked(store=False), f"bench-{agent.number}", most)


def _alone(agent: _Agent, new: Message, count: Callable[[Sequence[Message]], int], tokenizer: Any, most: int) -> Ask:
    message = floor_message(tokenizer, agent.history, new, count)
    ids = list(render_prompt([message], tokenizer).input_ids)
    return Ask(ids, Asked(store=False), f"floor-{agent.number}-{time.perf_counter_ns()}", most)


def _kept(model: VllmModel, agents: Sequence[_Agent], new: Message, most: int) -> list[Answer]:
    """The agents' answers from what their sessions keep; copies of these go on, so that they stay as they are."""
    engines = [agent.session.fork().engine for agent in agents]
    assert all(isinstance(engine, VllmEngine) for engine in engines), "made with that engine"
    pairs = [
        (engine, engine.ask(agent.ids(new, model.tokenizer)[1], most))  # type: ignore[attr-defined]
        for engine, agent in zip(engines, agents, strict=True)
    ]
    answers = model.ask([ask for _, ask in pairs])
    for (engine, ask), answer in zip(pairs, answers, strict=True):
        engine.took(ask, answer)  # type: ignore[attr-defined]
    return answers


def _check(name: str, answers: Sequence[Answer], bench: AgentsBench, model: VllmModel) -> None:
    if any(len(answer.ids) != bench.plan_tokens for answer in answers):
        raise RunError(f"{name}: an answer has other than {bench.plan_tokens} tokens")
    fewest = min(answer.cached for answer in answers)
    if name == PREFIX and fewest < bench.length - model.block:
        raise RunError(f"{name}: vLLM found {fewest} of {bench.length} tokens; give it more memory with --kv-gb")


def _seconds(job: Callable[[], Any]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def summary_of(raw: Sequence[JsonRow]) -> list[JsonRow]:
    """Per side: medians, as multiples of the floor and of `erecap`."""
    return side_summary(raw, means=("blocks", "cached"))


def agents_rows(found: JsonRow, about: JsonRow, bench: AgentsBench) -> list[JsonRow]:
    """R9-speed and R9-blocks, if they were measured with as many agents and tokens as they are defined for."""
    if (bench.length, bench.agents) != (LENGTH, AGENTS):
        return []
    raw, at = found["raw"], {entry["mode"]: entry for entry in summary_of(found["raw"])}
    floors = f"over the floor: prefix cache {at[PREFIX]['over_floor']:.2f}, `erecap` {at[OURS]['over_floor']:.2f}"
    read = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found["read_s"].items())
    blocks = [[row["blocks"] for row in raw if row["mode"] == mode] for mode in (OURS, PREFIX)]
    shares = [own / other for own, other in zip(*blocks, strict=True)]
    return [
        result_row(
            "R9-speed", ratio(totals(raw, PREFIX), totals(raw, OURS)), about, row="algorithm",
            note=f"{found['model']}; {bench.agents} agents of {bench.length:,} tokens in one pass; {floors}; reading "
            f"the histories: {read}",
        ),
        result_row(
            "R9-blocks", Figure(statistics.median(shares), min(shares), max(shares), len(shares)), about,
            row="algorithm",
            note=f"blocks of {found['block']} tokens an agent, its answer included: {at[OURS]['blocks']:.1f} against "
            f"{at[PREFIX]['blocks']:.1f}; the kept keys and values stand once more in the connector's store",
        ),
    ]  # fmt: skip
