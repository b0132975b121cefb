"""A small server that speaks the OpenAI API from a script, and remembers what it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 5}}


class Script:
    """Calls the first tool that is offered, `turns` times, then says `text`; without tools it says it at once."""

    def __init__(self, turns: int = 12, text: str = "The mug is on shelf 11.") -> None:
        self.turns, self.text = turns, text
        self.seen: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.url = ""

    def sizes(self) -> list[int]:
        """Characters of the messages of each request."""
        return [len(json.dumps(body.get("messages", body.get("input")))) for body in self.seen]

    def call(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """The tool to call, and its arguments."""
        tools = body.get("tools")
        number = len(self.seen)
        if not tools or number > self.turns:
            return None
        tool = tools[0].get("function") or tools[0]
        [argument] = tool["parameters"]["properties"]
        return {"name": tool["name"], "arguments": json.dumps({argument: number})}


@contextmanager
def scripted(script: Script) -> Iterator[Script]:
    """Run the server while the block runs; its address is `script.url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.seen.append(body)
            script.paths.append(self.path)
            kind, out = _answer(script, self.path.partition("?")[0], body)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()


def _answer(script: Script, path: str, body: dict[str, Any]) -> tuple[str, bytes]:
    call = script.call(body)
    if path.endswith("/responses"):
        return _response(script, body, call)
    if path.endswith("/messages"):
        return _anthropic(script, body)
    message: dict[str, Any] = {"role": "assistant", "content": None if call else script.text}
    if call:
        message["tool_calls"] = [{"id": f"c{len(script.seen)}", "type": "function", "function": call}]
    head = {"id": "x", "created": 1, "model": "m"}
    reason = "tool_calls" if call else "stop"
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return _json({**head, "object": "chat.completion", "choices": [choice], "usage": USAGE})
    words: list[dict[str, Any]] = [{"content": word} for word in script.text.replace(" ", "| ").split("|")]
    called = [{"tool_calls": [{"index": 0, **one}]} for one in message.get("tool_calls", [])]
    deltas = [{"role": "assistant", **delta} for delta in (called or words)]
    chunk = {**head, "object": "chat.completion.chunk"}
    chunks = [{**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    chunks.append({**chunk, "choices": [], "usage": USAGE})
    return _events([("", json.dumps(one)) for one in chunks] + [("", "[DONE]")])


def _response(script: Script, body: dict[str, Any], call: dict[str, Any] | None) -> tuple[str, bytes]:
    part = {"type": "output_text", "text": script.text, "annotations": []}
    item: dict[str, Any] = {
        "type": "message",
        "id": "m1",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    if call:
        number = len(script.seen)
        item = {"type": "function_call", "id": f"f{number}", "call_id": f"c{number}", "status": "completed", **call}
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "input_tokens_details": {"cached_tokens": 5},
             "output_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
    whole = {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed", "output": [item],
             "usage": usage, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}  # fmt: skip
    if not body.get("stream"):
        return _json(whole)
    place = {"item_id": "m1", "output_index": 0, "content_index": 0, "logprobs": []}
    empty = {**part, "text": ""}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**whole, "output": [], "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", "part": empty, **place},
    ]
    events += [{"type": "response.output_text.delta", "delta": word, **place} for word in ("The mug ", "is there.")]
    events.append({"type": "response.completed", "response": whole})
    return _events([(one["type"], json.dumps({**one, "sequence_number": n})) for n, one in enumerate(events)])


def _anthropic(script: Script, body: dict[str, Any]) -> tuple[str, bytes]:
    usage = {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 5}
    whole = {"id": "a", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
             "stop_sequence": None, "content": [{"type": "text", "text": script.text}], "usage": usage}  # fmt: skip
    if not body.get("stream"):
        return _json(whole)
    delta = {"type": "text_delta", "text": script.text}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    return _events([(one["type"], json.dumps(one)) for one in events])


def _json(body: dict[str, Any]) -> tuple[str, bytes]:
    return "application/json", json.dumps(body).encode()


def _events(events: list[tuple[str, str]]) -> tuple[str, bytes]:
    lines = [(f"event: {name}\n" if name else "") + f"data: {data}\n\n" for name, data in events]
    return "text/event-stream", "".join(lines).encode()
