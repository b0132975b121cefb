"""Robots that replan on one GPU: a simulation of a server with continuous batching and bounded memory.

Every robot asks for a plan, carries it out for a while, and replans. The server makes steps. In each of them every
call that decodes gets one token, and what is left of the step's tokens reads prompts, first come, first served. Keys
and values of a robot stay on the GPU between its calls while there is room. The least recently used move to the memory
of the host, from which their next call brings them back over a link that serves one call at a time; the least recently
used there are lost, and the next call of such a robot reads its whole history again.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from erecap.cost.fleet.gpu import Gpu, Served, step_seconds, tokens_held


@dataclass(frozen=True)
class Load:
    """Robots and what they ask."""

    robots: int
    history: int  # tokens that an episode has had, at every call
    kept: int | None = None  # tokens of them that stay stored; None: all
    reuse: bool = True  # keys and values stay between calls; else every call reads the history
    new_tokens: int = 100  # of a call
    plan_tokens: int = 32  # generated in a call
    period_s: float = 10.0  # mean time from a plan to the next call
    seconds: float = 120.0  # simulated, after as much again has been thrown away
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.robots, self.history, self.new_tokens, self.plan_tokens)
        if min(counts) < 1 or min(self.period_s, self.seconds) <= 0 or (self.kept is not None and self.kept < 1):
            raise ValueError(f"robots, tokens and seconds must be above 0, got {self}")

    @property
    def stored(self) -> int:
        """Tokens of a robot that are stored between two calls."""
        if not self.reuse:
            return 0
        return self.history if self.kept is None else min(self.kept, self.history)


@dataclass(frozen=True)
class Server:
    """Limits of the server."""

    step_tokens: int = 8192  # that one step reads at most
    most_calls: int = 256  # answered at a time
    chunk: int = 512  # tokens that a call with a budget reads at most before it evicts
    host_bytes: float = 0.0  # memory of the host for keys and values that the GPU has no room for
    link_bytes_per_s: float = 50e9  # between the two


@dataclass(frozen=True)
class Outcome:
    """Times of the calls of a simulation."""

    calls: int
    p50_s: float
    p95_s: float
    reread: float  # share of the calls that read the history again
    fetched: float  # share of the calls whose keys and values came from the host
    busy: float  # share of the time in which the GPU worked
    fits: int  # robots whose keys and values fit into memory at a time
    late: int  # calls that had not ended, and had taken longer than all that had


@dataclass
class _Call:
    robot: int
    asked: float
    to_read: int
    stored: int
    most: int  # tokens that it may come to store
    to_write: int
    again: bool
    fetched: bool
    ready: float  # when its keys and values are on the GPU


def most_stored(load: Load, server: Server, *, again: bool) -> int:
    """Tokens that a call stores at most; `again`: it reads the history anew."""
    if load.kept is None or load.kept >= load.history:
        return load.history + load.new_tokens + load.plan_tokens
    # With a budget a call evicts after every chunk.
    read = min(server.chunk, load.history - load.kept + load.new_tokens if again else load.new_tokens)
    return load.kept + read + load.plan_tokens


def simulate(load: Load, gpu: Gpu, model: Served, server: Server | None = None) -> Outcome:
    """Let the robots work for a while.

    Raises:
        ValueError: the weights do not fit, or not even one robot does.
    """
    return _Simulation(load, gpu, model, server or Server()).run()


class _Simulation:
    def __init__(self, load: Load, gpu: Gpu, model: Served, server: Server) -> None:
        self.load, self.gpu, self.model, self.server = load, gpu, model, server
        self.room = tokens_held(gpu, model)
        if self._most(again=True) > self.room:
            raise ValueError(f"one call stores {self._most(again=True):,} tokens, and {self.room:,} fit")
        self.drawn = random.Random(load.seed)
        self.due = [(self.drawn.random() * load.period_s, robot) for robot in range(load.robots)]
        heapq.heapify(self.due)
        self.waiting: deque[tuple[float, int]] = deque()
        self.running: list[_Call] = []
        self.idle: OrderedDict[int, None] = OrderedDict()  # robots with stored tokens, the least recently used first
        self.host: OrderedDict[int, None] = OrderedDict()  # the same on the host
        own = load.stored * model.bytes_per_token
        self.on_host = int(server.host_bytes // own) if own else 0  # robots that the host has room for
        self.fetch_s = own / server.link_bytes_per_s
        self.link_free = 0.0
        self.used = 0  # tokens that are stored or promised
        self.now = self.worked = 0.0
        self.ended: list[tuple[float, _Call]] = []  # seconds

    def run(self) -> Outcome:
        """Simulate to the end."""
        self._warm()
        warm, end = self.load.seconds, 2 * self.load.seconds
        while self.now < end:
            self._arrive()
            self._admit()
            reads = list(self._reads())
            if not reads:  # nothing is there to be read: the next call, or the next arrival over the link
                nexts = [call.ready for call in self.running] + [asked for asked, _ in self.due[:1]]
                self.now = max(self.now, min(nexts))
                continue
            took = step_seconds(self.gpu, self.model, reads)
            self.now += took
            self.worked += took if self.now > warm else 0.0
            self._advance(warm)
        # Calls that have taken longer than any that ended count as well, so that a server that falls behind does not
        # look fast.
        slowest = max((seconds for seconds, _ in self.ended), default=0.0)
        asked = [asked for asked, _ in self.waiting] + [call.asked for call in self.running]
        unended = [self.now - at for at in asked if self.now - at > slowest]
        times = sorted([seconds for seconds, _ in self.ended] + unended)
        return Outcome(
            calls=len(self.ended),
            p50_s=_percentile(times, 0.5),
            p95_s=_percentile(times, 0.95),
            reread=_share([call.again for _, call in self.ended]),
            fetched=_share([call.fetched for _, call in self.ended]),
            busy=min(1.0, self.worked / (self.now - warm)),
            fits=self.room // self._most(again=not self.load.reuse),
            late=len(unended),
        )

    def _warm(self) -> None:
        """Begin with the memory full of robots that have called before."""
        if not self.load.reuse:
            return
        for robot in range(self.load.robots):
            if self.used + self.load.stored <= self.room:
                self.idle[robot] = None
                self.used += self.load.stored
            elif len(self.host) < self.on_host:
                self.host[robot] = None

    def _most(self, again: bool) -> int:
        return most_stored(self.load, self.server, again=again)

    def _arrive(self) -> None:
        while self.due and self.due[0][0] <= self.now:
            self.waiting.append(heapq.heappop(self.due))

    def _admit(self) -> None:
        """Begin calls while there is room for them, at the cost of robots that are idle."""
        while self.waiting and len(self.running) < self.server.most_calls:
            asked, robot = self.waiting[0]
            here, fetched = robot in self.idle, robot in self.host
            if fetched:
                del self.host[robot]  # makes room there for a robot that has to make room here
            most = self._most(again=not here)
            need = most - (self.load.stored if here else 0)
            if here:
                self.idle.move_to_end(robot)  # not at its own cost
            while self.used + need > self.room and self.idle and next(iter(self.idle)) != robot:
                self._to_host(self.idle.popitem(last=False)[0])
                self.used -= self.load.stored
            if self.used + need > self.room:
                if fetched:
                    self._to_host(robot)
                return
            self.waiting.popleft()
            self.used += need
            ready = self.now
            if here:
                del self.idle[robot]
            elif fetched:
                ready = self.link_free = max(self.now, self.link_free) + self.fetch_s
            again = not here and not fetched
            to_read = self.load.new_tokens + (self.load.history if again else 0)
            stored = 0 if again else self.load.stored
            self.running.append(
                _Call(robot, asked, to_read, stored, most, self.load.plan_tokens, again, fetched, ready)
            )

    def _to_host(self, robot: int) -> None:
        if self.on_host:
            self.host[robot] = None
            if len(self.host) > self.on_host:
                self.host.popitem(last=False)

    def _reads(self) -> Iterator[tuple[int, int]]:
        """New and stored tokens of every call in this step; remembers them for `_advance`."""
        left = self.server.step_tokens
        self.parts: list[tuple[_Call, int]] = []
        for call in self.running:
            if not call.to_read and left:
                left -= 1
                self.parts.append((call, 1))
        for call in self.running:
            part = min(call.to_read, left) if call.ready <= self.now else 0
            if part:
                left -= part
                self.parts.append((call, part))
        for call, part in self.parts:
            yield part, call.stored

    def _advance(self, warm: float) -> None:
        load = self.load
        for call, part in self.parts:
            if call.to_read:
                call.to_read -= part
                call.to_write -= not call.to_read  # the last token that is read gives the first of the plan
            else:
                call.to_write -= 1
            call.stored = min(call.stored + part, call.most)
            if call.to_write <= 0 and not call.to_read:
                self.running.remove(call)
                self.used -= call.most - load.stored
                if load.reuse:
                    self.idle[call.robot] = None
                if call.asked >= warm:
                    self.ended.append((self.now - call.asked, call))
                heapq.heappush(self.due, (self.now + load.period_s * (0.5 + self.drawn.random()), call.robot))


def _share(told: list[bool]) -> float:
    return sum(told) / len(told) if told else 0.0


def _percentile(values: list[float], share: float) -> float:
    """The value below which that share lies; infinite for none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("inf")
