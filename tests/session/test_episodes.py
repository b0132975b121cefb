"""A session behind the language-model protocol, and the trace of its prompt."""

from __future__ import annotations

from erecap.budget import Budget
from erecap.context.tokenize import render_chat
from erecap.language_models.per_episode import EpisodeSessions
from erecap.protocols import LanguageModel
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn

NEW = 6


def test_each_episode_starts_with_nothing() -> None:
    sessions = EpisodeSessions(model(), byte_level(), budget=Budget(kv_tokens=120))
    assert isinstance(sessions, LanguageModel)
    first = sessions.generate(start(), max_new_tokens=NEW)
    assert sessions.generate(start(), max_new_tokens=NEW).usage.reused_tokens > 0
    sessions.reset()
    again = sessions.generate(start(), max_new_tokens=NEW)
    assert again.usage.reused_tokens == 0 and again.text == first.text


def test_the_trace_is_the_whole_chat_with_what_is_still_stored() -> None:
    sessions = EpisodeSessions(model(), byte_level(), budget=Budget(kv_tokens=120))
    sessions.trace = True
    messages = start()
    for number in range(4):
        messages[-1]["protect"] = [(0, len(messages[-1]["content"]))]
        generation = sessions.generate(messages, max_new_tokens=NEW)
        assert "".join(piece.text for piece in generation.pieces) == render_chat(messages, byte_level()).text
        messages[-1]["protect"] = []
        messages += turn(generation.text, number)
    shares = {index: [p.kept for p in generation.pieces if p.message == index] for index in range(len(messages) - 2)}
    assert set(shares[0]) == {1.0} and set(shares[7]) == {1.0}  # system, newest
    assert min(min(part) for part in shares.values() if part) == 0.0  # something old was evicted


def test_stale_text_goes_first_only_where_asked() -> None:
    kept = {}
    for stale_first in (True, False):
        sessions = EpisodeSessions(model(), byte_level(), budget=Budget(kv_tokens=150), stale_first=stale_first)
        messages = start()
        messages[1]["protect"] = [(0, 22)]
        for number in range(5):
            messages += turn(sessions.generate(messages, max_new_tokens=NEW).text, number)
            messages[-1]["protect"] = []
        # The newest look but one is called stale; by recency alone it would stay.
        messages[-3]["stale"] = [(0, len(messages[-3]["content"]))]
        sessions.generate(messages, max_new_tokens=NEW)
        session = sessions.session
        mark = next(m for m in session.conversation.transcript.marks if m.message == len(messages) - 3)
        places = set(session.cache.layout(0).index[0].tolist())
        kept[stale_first] = len(places & set(range(mark.first, mark.first + len(mark.starts))))
    assert kept[True] == 0 < kept[False]
