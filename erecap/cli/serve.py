"""`erecap serve`: an OpenAI-compatible server on a local model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = "smollm2-135m-instruct",
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter merged into it: a folder or a name.")] = None,
    pruner: Annotated[str | None, typer.Option(help="Trained pruner that ranks what is evicted.")] = None,
    kv_tokens: Annotated[int | None, typer.Option(min=16, help="Tokens that a conversation keeps; else all.")] = None,
    name: Annotated[str | None, typer.Option(help="Name under which it is offered; else the model's.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8000,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key that clients must send.")
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Conversations that are remembered.")] = 32,
    kv_mb: Annotated[
        int | None, typer.Option(min=1, help="MiB of their keys and values, about; else no limit.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Conversations answered together.")] = 8,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a request may take.")] = 120.0,
    body_mb: Annotated[float, typer.Option(min=0.001, help="MiB of a request.")] = 4.0,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    decode_weights: Annotated[str, typer.Option(help="Weights while decoding: same, int8 or int4.")] = "same",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; torch's choice if left out.")] = None,
) -> None:
    """Serve a local model at /v1/chat/completions; conversations that grow are read only once.

    Ends with Ctrl-C, after finishing what is running.
    """
    from erecap.errors import ConfigError

    key = None
    if api_key_env is not None:
        key = os.environ.get(api_key_env)
        if not key:
            raise ConfigError(f"--api-key-env: the environment variable {api_key_env} is not set, or empty")
    try:
        import uvicorn

        from erecap.serving.app import create_app
    except ImportError as error:
        raise ConfigError(f"serve: {error.name} is not installed; pip install 'erecap[serve]'") from error
    from rich.console import Console

    from erecap.serving.opening import open_engine

    console = Console(stderr=True)
    offered = name or Path(model).name
    engine = open_engine(
        model, adapter=adapter, pruner=pruner, kv_tokens=kv_tokens, dtype=dtype, device=device,
        decode_weights=decode_weights, threads=threads, at_once=at_once, most_waiting=waiting, sessions=sessions,
        session_bytes=None if kv_mb is None else kv_mb << 20, request_s=timeout, say=console.print,
    )  # fmt: skip
    app = create_app(engine, offered, key=key, most_bytes=int(body_mb * (1 << 20)))
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=int(timeout) + 5)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                at = self.servers[0].sockets[0].getsockname()[1]
                console.print(f"serving {offered} at http://{host}:{at}/v1; Ctrl-C ends it", soft_wrap=True)

    server = Server(config)
    try:
        server.run()
    except KeyboardInterrupt:
        pass  # told to end, and has ended as it should
    except SystemExit as ended:  # uvicorn's way to say that it could not start; the reason is in its log
        raise ConfigError(f"--port: {host}:{port} cannot be listened on; another program may hold it") from ended
