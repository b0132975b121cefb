"""`erecap serve`: an OpenAI-compatible server on a local model, or a proxy before another server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erecap.budget import AUTO, Budget
from erecap.cli import numbers
from erecap.cli.bench import MODEL
from erecap.cli.model_options import (
    AdapterOption,
    DeviceMapOption,
    DeviceOption,
    ExitOption,
    LayersOption,
    ThreadsOption,
    exit_settings,
)
from erecap.cli.numbers import finite

if TYPE_CHECKING:
    from erecap.serving.keys import Keys

# Parameters that only one of the two kinds of server has.
OF_MODELS = (
    "model", "adapter", "evict_by", "pruner", "kv_tokens", "memory_gb", "pays", "name", "sessions", "kv_mb", "at_once",
    "waiting", "dtype", "device", "device_map", "decode_weights", "threads", "layers", "draft", "exit", "engine",
)  # fmt: skip
OF_PROXIES = ("upstream_key_env", "keep_tokens", "tokenizer", "patterns", "emit_edits", "log", "answer_mb")


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Catalog name, folder or hub name.")] = MODEL,
    adapter: AdapterOption = None,
    layers: LayersOption = None,
    evict_by: Annotated[
        str | None,
        typer.Option(help="What is evicted last: recency (if left out), random, attention, or a trained pruner."),
    ] = None,
    pruner: Annotated[
        str | None, typer.Option(help="Trained pruner that ranks what is evicted; the same as --evict-by.")
    ] = None,
    kv_tokens: Annotated[
        str, typer.Option(help="Tokens that a conversation keeps: auto (all that fit), a number, or all.")
    ] = "auto",
    memory_gb: Annotated[
        float | None,
        typer.Option(callback=finite, help="With auto: 10^9 bytes of keys and values that a conversation may store."),
    ] = None,
    pays: Annotated[
        float | None,
        typer.Option(callback=finite, help="With auto: drop earlier where that saves this share of a call's time."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name under which it is offered; else the model's.")] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            help="URL of another server, with its /v1: be a proxy that shortens what goes there. Repeated: replicas."
        ),
    ] = None,
    upstream_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with that server's key; else clients send it.")
    ] = None,
    keep_tokens: Annotated[
        int | None, typer.Option(min=1, help="With --upstream: most tokens of a request, tools and images included.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="With --upstream: whose tokens are counted; a model's name or folder. Else an estimate."),
    ] = None,
    patterns: Annotated[
        str | None, typer.Option(help="With --upstream: how lines tell what was seen: erecap, react or alfworld.")
    ] = None,
    thinking_first: Annotated[
        bool, typer.Option("--thinking-first", help="What has to go: first the thinking in earlier answers.")
    ] = False,
    emit_edits: Annotated[
        bool,
        typer.Option(
            "--emit-edits", help="With --upstream: send chats whole, with edits for a server that carries them out."
        ),
    ] = False,
    log: Annotated[Path | None, typer.Option(help="With --upstream: a folder that gets a row for each call.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8000,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key that clients must send.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with keys, one a line: each client must send one. One key's conversations are its own."
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on another address than this machine's own without a key.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name under which this machine may be asked; can be repeated.")
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Conversations that are remembered.")] = 32,
    kv_mb: Annotated[
        int | None, typer.Option(min=1, help="MiB of their keys and values, about; else no limit.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Conversations answered together.")] = 8,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait.")] = 64,
    timeout: Annotated[
        float, typer.Option(callback=finite, min=0.1, max=1e6, help="Seconds a request may take.")
    ] = 120.0,
    body_mb: Annotated[float, typer.Option(callback=finite, min=0.001, max=1e6, help="MiB of a request.")] = 4.0,
    answer_mb: Annotated[
        float, typer.Option(callback=finite, min=0.001, max=1e6, help="With --upstream: MiB of an answer.")
    ] = 64.0,
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16; with llamacpp: of keys and values alone.")
    ] = "auto",
    device: DeviceOption = "auto",
    device_map: DeviceMapOption = None,
    decode_weights: Annotated[str, typer.Option(help="Weights while decoding: same, int8 or int4.")] = "same",
    draft: Annotated[
        str | None,
        typer.Option(help="Way to draft: automaton, automaton-run, lookup, prompt-lookup, suffix, none."),
    ] = None,
    exit: ExitOption = None,
    threads: ThreadsOption = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="What runs the model: transformers, vllm or llamacpp; if left out, llamacpp for a GGUF file, else "
            "transformers."
        ),
    ] = None,
) -> None:
    """Serve a local model at /v1/chat/completions, or shorten the chats that go to another server.

    Conversations that grow are read only once. Ends with Ctrl-C, after finishing what is running.
    """
    from erecap.errors import ConfigError
    from erecap.parallel.start import leading

    given = [name for name in (OF_MODELS if upstream else OF_PROXIES) if _was_given(context, name)]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        where = "the server behind a proxy has the model" if upstream else "it is for a proxy, with --upstream"
        raise ConfigError(f"{option}: {where}; leave it out")
    if evict_by is not None and pruner is not None:
        raise ConfigError("--pruner: it is another name of --evict-by; give one of them")
    if upstream and len(upstream) == 1 and keep_tokens is None:
        raise ConfigError("--upstream: give --keep-tokens, the tokens of a prompt beyond which it is shortened")
    budget = _budget(kv_tokens, memory_gb, pays)
    upstream_key = _secret(upstream_key_env, "--upstream-key-env")
    try:
        import uvicorn  # noqa: F401

        from erecap.serving import app, proxy
        from erecap.serving.upstream import answers, checked_url
    except ImportError as error:
        raise ConfigError(f"serve: {error.name} is not installed; pip install 'erecap[serve]'") from error
    keys = _keys(api_key_env, key_file)
    names = _names(host, keys is not None, insecure, allow_host or [])
    most_bytes = int(body_mb * (1 << 20))
    if upstream:
        from erecap.wrapping.calls import TextCalls

        behind = [checked_url(url) for url in upstream]
        calls = TextCalls.opened(
            "proxy", log, keep_tokens=keep_tokens, patterns=patterns, tokenizer=tokenizer,
            thinking_first=thinking_first, emit_edits=emit_edits,
        )  # fmt: skip
        made = proxy.create_proxy(
            upstream, calls, upstream_key=upstream_key, key=keys, most_bytes=most_bytes,
            most_answer_bytes=int(answer_mb * (1 << 20)), request_s=timeout, hosts=names,
        )  # fmt: skip
        for url in behind:
            if not answers(url):
                until = "others take its place" if len(behind) > 1 else "clients get status 502"
                typer.echo(f"note: nothing answers at {url.host} yet; until it does, {until}", err=True)
        _run(made, f"a proxy before {', '.join(upstream)}", host, port, timeout)
        return
    from erecap.serving.opening import follow_server, open_engine

    _check_sessions(sessions, at_once, keys)
    if follow_server(
        model, adapter=adapter, dtype=dtype, device=device, device_map=device_map, threads=threads, layers=layers,
        engine=engine,
    ):  # fmt: skip
        return
    opened = open_engine(
        model, adapter=adapter, evict_by=evict_by or pruner or "recency", budget=budget, dtype=dtype, device=device,
        device_map=device_map,
        decode_weights=decode_weights, threads=threads, layers=layers, thinking_first=thinking_first,
        draft=_draft(draft), exit=exit_settings(exit), engine=engine, at_once=at_once, most_waiting=waiting,
        sessions=sessions, session_bytes=None if kv_mb is None else kv_mb << 20, request_s=timeout,
        **({} if keys is None else {"tenants": keys.tenants}),
        say=_say,
    )  # fmt: skip
    offered = name or Path(model).name
    made = app.create_app(opened, offered, key=keys, most_bytes=most_bytes, hosts=names)
    with leading():
        _run(made, offered, host, port, timeout)


def _say(line: str) -> None:
    from rich.console import Console

    Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True).print(line)


def _budget(kv_tokens: str, memory_gb: float | None, pays: float | None) -> Budget:
    from erecap.errors import ConfigError

    for option, value in (("--memory-gb", memory_gb), ("--pays", pays)):
        if value is not None and kv_tokens != AUTO:
            raise ConfigError(f"{option}: got {value} with --kv-tokens {kv_tokens}; allowed with auto")
    tokens = numbers.kv_tokens(kv_tokens)
    if memory_gb is not None and not 0 < memory_gb < float("inf"):
        raise ConfigError(f"--memory-gb: got {memory_gb}; allowed: a number above 0")
    try:
        if tokens == AUTO:
            return Budget.auto(None if memory_gb is None else int(1e9 * memory_gb), pays)
        return Budget.of(tokens)
    except ValueError as error:
        raise ConfigError(f"serve: {error}") from error


def _draft(name: str | None) -> bool | str:
    from erecap.errors import ConfigError
    from erecap.registries import DRAFTS

    if name is None or name == "none":
        return name is None
    if name not in DRAFTS:
        raise ConfigError(f"--draft: got {name!r}; allowed: {', '.join(DRAFTS)}, none")
    return name


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _secret(variable: str | None, option: str) -> str | None:
    from erecap.errors import ConfigError

    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"{option}: the environment variable {variable} is not set, or empty")
    return value


def _keys(variable: str | None, file: Path | None) -> Keys | None:
    from erecap.errors import ConfigError
    from erecap.serving.keys import Keys

    if variable is not None and file is not None:
        raise ConfigError("--key-file: got it beside --api-key-env; allowed: one of them")
    if file is not None:
        return Keys.read(file)
    key = _secret(variable, "--api-key-env")
    try:
        return Keys.of(key)
    except ConfigError as error:
        raise ConfigError(f"--api-key-env: {variable}: {error}") from error


def _check_sessions(sessions: int, at_once: int, keys: Keys | None) -> None:
    """Refuse fewer conversations than are answered together, by each of several keys."""
    from erecap.errors import ConfigError

    tenants = 1 if keys is None else len(keys.tenants)
    if sessions // tenants < at_once:
        shared = "" if tenants == 1 else f" for {tenants} keys,"
        raise ConfigError(
            f"--sessions: got {sessions}{shared} with {at_once} answered at once (--at-once); allowed: at least "
            f"{at_once * tenants}, or a lower --at-once"
        )


def _names(host: str, has_key: bool, insecure: bool, allowed: list[str]) -> list[str] | None:
    """Names besides this machine's own that a request may give as its host; None where it listens for other machines.

    Raises:
        ConfigError: other machines could use it without a key.
    """
    from erecap.errors import ConfigError
    from erecap.serving.guard import is_loopback

    if is_loopback(host):
        return allowed
    if not has_key and not insecure:
        raise ConfigError(
            f"--host: {host!r} can be reached from other machines, and no key is asked for; give --api-key-env or "
            "--key-file, or --insecure to let everybody in"
        )
    return allowed or None


def _run(app: Any, what: str, host: str, port: int, timeout: float) -> None:
    """Serve until a signal."""
    from rich.console import Console

    from erecap.errors import ConfigError
    from erecap.serving.connections import Server, settings

    class Told(Server):
        async def startup(self, sockets: list | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                at = self.servers[0].sockets[0].getsockname()[1]
                name = f"[{host}]" if ":" in host else host
                line = f"serving {what} at http://{name}:{at}/v1; Ctrl-C ends it"
                console.print(line, soft_wrap=True, markup=False, highlight=False)

    console = Console(markup=False, emoji=False, stderr=True)
    try:
        Told(settings(app, host, port, end_s=int(timeout) + 5)).run()
    except KeyboardInterrupt:
        pass  # told to end, and has ended as it should
    except SystemExit as ended:  # uvicorn's way to say that it could not start; the reason is in its log
        raise ConfigError(f"--port: {host}:{port} cannot be listened on; another program may hold it") from ended
