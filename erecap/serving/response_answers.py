"""Answers of `/v1/responses`: a response of items, and the events of its stream."""

from __future__ import annotations

import time
import uuid
from typing import Any

from erecap.generation import Generation
from erecap.serving.answers import event, split, usage
from erecap.serving.failures import ApiFailure
from erecap.serving.schema import ResponseRequest
from erecap.serving.tools import Tools


class ResponseAnswer:
    """One response.

    Args:
        asked: the request.
        tools: calls of these are looked for.
    """

    def __init__(self, asked: ResponseRequest, tools: Tools) -> None:
        self.waits = bool(tools.functions)
        self._tools, self._number = tools, 0
        self._message_id = f"msg_{uuid.uuid4().hex[:24]}"
        self._head: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex[:24]}",
            "object": "response",
            "created_at": int(time.time()),
            "model": asked.model,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "tools": asked.tools or [],
            "tool_choice": asked.tool_choice or "auto",
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "text": asked.text or {"format": {"type": "text"}},
            "metadata": {},
            "store": False,
            "previous_response_id": None,
        }

    def whole(self, generation: Generation, evicted: int) -> dict[str, Any]:
        """`response`."""
        content, calls = split(generation, self._tools)
        items = [self._message(content)] if content is not None else []
        items += [_call_item(call) for call in calls]
        cut = generation.finish_reason == "length" and not calls
        counts = usage(generation, evicted)
        return {
            **self._body("incomplete" if cut else "completed"),
            "output": items,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": {
                "input_tokens": counts["prompt_tokens"],
                "input_tokens_details": counts["prompt_tokens_details"],
                "output_tokens": counts["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0, **counts.get("completion_tokens_details", {})},
                "total_tokens": counts["total_tokens"],
            },
        }

    def first(self) -> list[str]:
        """The response as it begins, and its message where its text is streamed."""
        begun = self._body("in_progress")
        events = [self._event("response.created", response=begun), self._event("response.in_progress", response=begun)]
        return events if self.waits else [*events, *self._message_begins()]

    def text(self, text: str) -> list[str]:
        """A piece of the message's text."""
        return [self._event("response.output_text.delta", **self._part_place(), delta=text, logprobs=[])]

    def last(self, generation: Generation, sent: str, evicted: int) -> list[str]:
        """The rest of the text, the end of each item, and the whole response."""
        response, events = self.whole(generation, evicted), []
        for number, item in enumerate(response["output"]):
            if item["type"] == "message":
                text = item["content"][0]["text"]
                events += self._message_begins() if self.waits else []
                events += self.text(text[len(sent) :]) if text[len(sent) :] else []
                events.append(self._event("response.output_text.done", **self._part_place(), text=text, logprobs=[]))
                events.append(self._event("response.content_part.done", **self._part_place(), part=item["content"][0]))
            else:
                begun = {**item, "arguments": "", "status": "in_progress"}
                place = {"item_id": item["id"], "output_index": number}
                events.append(self._event("response.output_item.added", output_index=number, item=begun))
                delta = {"delta": item["arguments"]}
                events.append(self._event("response.function_call_arguments.delta", **place, **delta))
                done = {"arguments": item["arguments"], "name": item["name"]}
                events.append(self._event("response.function_call_arguments.done", **place, **done))
            events.append(self._event("response.output_item.done", output_index=number, item=item))
        return [*events, self._event(f"response.{response['status']}", response=response)]

    def failed(self, failure: ApiFailure) -> list[str]:
        """The response that failed."""
        error = {"code": failure.code or failure.kind, "message": str(failure)}
        return [self._event("response.failed", response={**self._body("failed"), "error": error})]

    def _message_begins(self) -> list[str]:
        begun = {**self._message(""), "content": [], "status": "in_progress"}
        return [
            self._event("response.output_item.added", output_index=0, item=begun),
            self._event("response.content_part.added", **self._part_place(), part=_part("")),
        ]

    def _message(self, text: str) -> dict[str, Any]:
        content = [_part(text)]
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": content,
        }

    def _part_place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": 0, "content_index": 0}

    def _body(self, status: str) -> dict[str, Any]:
        return {**self._head, "status": status, "output": [], "error": None, "incomplete_details": None, "usage": None}

    def _event(self, kind: str, **values: Any) -> str:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **values}, kind)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(call: dict[str, Any]) -> dict[str, Any]:
    function, number = call["function"], call["id"]
    item = {"type": "function_call", "status": "completed", "call_id": number, **function}
    return {"id": number.replace("call_", "fc_"), **item}
