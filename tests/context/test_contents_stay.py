"""Contents of many kinds under every budget: a message is shown as it was told, or a marker stands in its place."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from erecap.context.compaction import MARKER, compact_messages
from erecap.context.compaction.spans import KEYS
from erecap.generation import Message

TOLD = {
    "a table": "| a | the |\n|---|-----|\n|   1 |  2  |",
    "a diff": "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n-the a\n+a  the",
    "values with commas": 'id,the name,a\n1,"a, the",x\n2,,',
    "YAML": "the:\n  - a\n  - the: a\n# a note",
    "a fence": "```python\nif the:\n    a  =  1\n```",
    "HTML": "<p>a <b>the</b></p>\n<!-- a -->",
    "colours of a terminal": "\x1b[31mthe a\x1b[0m  red",
    "boxes": "┌──┬──┐\n│a │  │\n└──┴──┘",
    "joined signs": "👨\u200d👩\u200d👧 a the \u200b x\u00a0y",
    "from right to left": "הרובוט נמצא ליד הכיסא. the a",
    "carriage returns": "line a\r\nthe line\r\n\r\nthe end",
    "blanks at both ends": "   a the   \n\n\n   the a  \n",
    "another's marker": "[removed]\nthe a [removed] x",
    "lines of JSON": '{"a": 1}\n{"the": "a  b"}',
    "JSON with a key twice": '{"a": 1.0, "b": 1e2, "a": 2,  "c": "\\u00e9"}',
}


def characters(messages: Sequence[Message]) -> int:
    return sum(3 + len(message["content"] or "") for message in messages)


@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("by_tool", [False, True])
def test_a_message_is_shown_whole_or_not_at_all(kind: str, by_tool: bool) -> None:
    chat: list[dict] = [{"role": "system", "content": "Plan."}, {"role": "user", "content": "Find the mug."}]
    for number in range(5):
        if by_tool:
            call = {"id": f"c{number}", "function": {"name": "f", "arguments": json.dumps({"x": TOLD[kind]})}}
            chat.append({"role": "assistant", "content": None, "tool_calls": [call]})
            chat.append({"role": "tool", "tool_call_id": f"c{number}", "content": TOLD[kind]})
        else:
            chat.append({"role": "assistant", "content": f"{number}\n{TOLD[kind]}"})
            chat.append({"role": "user", "content": TOLD[kind]})
    marked = 0
    for target in range(1, characters(chat)):  # type: ignore[arg-type]
        shown = compact_messages(chat, target, characters)  # type: ignore[arg-type]
        kept = [message for number, message in enumerate(chat) if number not in shown.dropped]
        for own, message in zip(kept, shown.messages, strict=True):
            marker = f'"{MARKER}"' if "twice" in kind else MARKER
            gone = message["content"] == marker != own["content"]
            marked += gone
            said = {key: value for key, value in message.items() if key not in KEYS}
            assert said == {**own, "content": marker if gone else own["content"]}
            assert not gone or own["role"] != "assistant"
    assert marked and [message["content"] for message in shown.messages[-2:]] == [one["content"] for one in chat[-2:]]
