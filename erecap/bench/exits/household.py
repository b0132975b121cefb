"""Texts of household games that the model plays itself, with the grammar that its plans were decoded under."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from erecap.bench.exits.settings import ExitsBench
from erecap.bench.exits.texts import chat_text
from erecap.config.run import PlannerSettings
from erecap.config.suite import Suite
from erecap.decoding.exits.states import ExitText
from erecap.generation import AllowedTokens, Generation, Message
from erecap.language_models.per_episode import EpisodeSessions
from erecap.planners.llm import LLMPlanner
from erecap.rollout.episode import play
from erecap.rollout.jobs import all_jobs

HORIZON = 40  # commands of a game; the first ones see everything that plans are made of


def household_texts(
    bench: ExitsBench, model: Any, tokenizer: Any, ends: Sequence[int], say: Callable[[str], None]
) -> list[ExitText]:
    """One text a game: the chat of its last call, in which the answers of all calls are decoded.

    Raises:
        EnvironmentUnavailable: the household simulator is missing.
    """
    from erecap.envs.household.env import HouseholdEnv
    from erecap.envs.household.options import HouseholdOptions

    suite = Suite(name="exits", env="household", episodes=bench.games, seed=bench.seed, horizon=HORIZON)
    env = HouseholdEnv(HouseholdOptions(split="unseen"), seed=bench.seed, episodes=bench.games)
    found: list[ExitText] = []
    try:
        for job in all_jobs({suite.name: suite}, ["reuse"], 0):
            player = _Recording(EpisodeSessions(model, tokenizer))
            play(job, suite, env, LLMPlanner(player), PlannerSettings())
            text = player.text(f"game {job.episode}", tokenizer, ends, bench.max_tokens)
            if text is not None:
                found.append(text)
            say(f"household game {job.episode + 1} of {bench.games}: {len(player.grammars)} plans")
    finally:
        env.close()
    return found


class _Recording(EpisodeSessions):
    """The language model of one episode, and its calls."""

    def __init__(self, sessions: EpisodeSessions) -> None:
        self.__dict__.update(vars(sessions))
        self.grammars: list[AllowedTokens | None] = []
        self._chat: list[Message] = []

    def generate(self, messages: Sequence[Message], **options: Any) -> Generation:
        """As `EpisodeSessions.generate`."""
        answer = super().generate(messages, **options)
        self.grammars.append(options.get("allowed_tokens"))
        self._chat = [*messages, {"role": "assistant", "content": answer.text}]
        return answer

    def text(self, name: str, tokenizer: Any, ends: Sequence[int], max_tokens: int) -> ExitText | None:
        """The chat with all answers."""
        return chat_text(name, self._chat, tokenizer, ends, max_tokens, self.grammars) if self._chat else None
