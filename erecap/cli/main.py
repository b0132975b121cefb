"""The command line: `erecap COMMAND`. Each command lies in a file of its own and imports what it needs when it runs."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from erecap.cli import (
    ablate,
    bench,
    bench_best_engine,
    bench_decoders,
    bench_drafts,
    bench_engines,
    bench_exits,
    bench_fleet,
    bench_layers,
    bench_llamacpp,
    bench_load,
    bench_remote,
    bench_serve,
    bench_slices,
    bench_vllm,
    bench_wrap,
    calibrate,
    chat,
    collect,
    compare,
    controller,
    doctor,
    evaluate,
    games,
    generate,
    layers,
    layers_find,
    layers_slice,
    models,
    profile,
    quality,
    report,
    rollout,
    scale,
    serve,
    train,
    tune,
    tune_layers,
    verify,
)
from erecap.errors import ConfigError, ErecapError
from erecap.parallel.start import world

TOGETHER = ("rollout", "serve")  # commands that several processes of torchrun carry out as one

# What the person can do something about: full disks, quotas, limits, folders that cannot be written.
_OF_THE_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.EIO, errno.ENOENT, errno.EEXIST,
}  # fmt: skip

app = typer.Typer(
    name="erecap",
    help="Keeps a language-model planner's replanning calls cheap, and measures what that does to its plans.",
    no_args_is_help=True,
    add_completion=False,
    # An error of ours is one line; an unknown one is a plain traceback that can be sent to us.
    pretty_exceptions_enable=False,
)
app.command("rollout")(rollout.rollout)
app.command("ablate")(ablate.ablate)
app.command("compare")(compare.compare)
app.command("collect")(collect.collect)
app.command("quality")(quality.quality)
app.command("report")(report.report)
app.command("verify")(verify.verify)
app.command("serve")(serve.serve)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("doctor")(doctor.doctor)
app.command("calibrate")(calibrate.calibrate)
app.command("scale")(scale.scale)
app.add_typer(models.app, name="models")
layers.app.command("find")(layers_find.find)
layers.app.command("steps")(layers_find.steps)
layers.app.command("take")(layers_find.take)
layers.app.command("slice")(layers_slice.slice_)
layers.app.command("profiles")(layers_slice.profiles)
app.add_typer(layers.app, name="layers")
app.add_typer(controller.app, name="controller")
app.add_typer(games.app, name="games")
bench.app.command("decoders")(bench_decoders.decoders)
bench.app.command("drafts")(bench_drafts.drafts)
bench.app.command("engines")(bench_engines.engines)
bench.app.command("best-engine")(bench_best_engine.best_engine)
bench.app.command("exits")(bench_exits.exits)
bench.app.command("fleet")(bench_fleet.fleet)
bench.app.command("layers")(bench_layers.layers)
bench.app.command("llamacpp")(bench_llamacpp.llamacpp)
bench.app.command("load")(bench_load.load)
bench.app.command("remote")(bench_remote.remote)
bench.app.command("serve")(bench_serve.serve)
bench.app.command("slices")(bench_slices.slices)
bench.app.command("vllm")(bench_vllm.vllm)
bench.app.command("wrap")(bench_wrap.wrap)
app.add_typer(bench.app, name="bench")
app.add_typer(profile.app, name="profile")
app.add_typer(train.app, name="train")
tune.app.command("layers")(tune_layers.layers)
app.add_typer(tune.app, name="tune")
app.add_typer(evaluate.app, name="evaluate")


def _print_version(asked: bool) -> None:
    if asked:
        from erecap import __version__

        typer.echo(f"erecap {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    if world() > 1 and context.invoked_subcommand not in TOGETHER:
        raise ConfigError(
            f"erecap {context.invoked_subcommand}: got {world()} processes of torchrun, each of which would do all of "
            f"it; allowed: {', '.join(TOGETHER)}"
        )


def main() -> None:
    """Entry point of the console script. Errors for the user become one line and an exit code."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # a full disk behind it is told here, not in the interpreter's last breath
    except ErecapError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno in _OF_THE_DISK:
            complain(f"{error.filename or 'output'}: {error.strerror}")
        elif error.errno != errno.EPIPE:  # whoever read the output has seen enough
            raise
        _drop_output()
        sys.exit(1)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(130)


def _drop_output() -> None:
    """Let the interpreter's end not fail at what standard output could not take."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(message: str) -> None:
    """Print `error: message` as one line on stderr, red in a terminal."""
    from rich.console import Console
    from rich.text import Text

    # Names come from other people's files: a terminal must not take a part of one for a command.
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(message.split()))
    Console(markup=False, emoji=False, stderr=True, soft_wrap=True, highlight=False).print(
        Text(f"error: {line}", style="red")
    )


if __name__ == "__main__":
    main()
