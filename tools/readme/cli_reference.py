"""The page docs/reference/cli.md: every command with its arguments and options, from the help texts of typer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PAGE = "reference/cli.md"
_HEAD = """# Command line

Every command with its arguments and options, made from the help texts (`make readme`). `erecap COMMAND --help` says the
same.

A `CONFIG` is a packaged name, such as `demo`, or a YAML file; `key=value` behind it changes single entries. An error is
one line on stderr: see [troubleshooting](../troubleshooting.md).
"""


def cli_reference() -> str:
    """The page's text, in the order of `erecap --help`."""
    from typer.main import get_command

    from erecap.cli.main import app

    found = list(_commands(get_command(app), "erecap"))
    lines = [_HEAD, "| command | does |", "|---|---|"]
    lines += [f"| [{name}](#{_anchor(name)}) | {_cell(_first_line(command.help))} |" for name, command in found]
    for name, command in found:
        lines += ["", f"## {name}", "", _text(command.help), "", "```", _usage(name, command), "```"]
        rows = [_row(parameter) for parameter in command.params if not parameter.hidden and parameter.name != "help"]
        if rows:
            lines += ["", "| argument or option | default | meaning |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def _usage(name: str, command: Any) -> str:
    arguments = [_metavar(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    return " ".join([name, "[OPTIONS]", *arguments])


def _metavar(parameter: Any) -> str:
    shown = (parameter.metavar or parameter.name.upper()) + ("..." if parameter.nargs == -1 else "")
    return shown if parameter.required else f"[{shown}]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"| `{_metavar(parameter)}` | {_default(parameter)} | {_cell(parameter.help)} |"
    both = " / ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    value = f" `{parameter.metavar}`" if parameter.metavar and not parameter.is_flag else ""
    return f"| {both}{value} | {_default(parameter)} | {_cell(parameter.help)} |"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    value = getattr(parameter.default, "value", parameter.default)
    if value is None or value is False or value == [] or callable(value):
        return ""
    return "yes" if value is True else f"`{value}`"


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _text(text: str | None) -> str:
    """A help text as Markdown; square brackets would read as links."""
    return (text or "").strip().replace("[", r"\[")


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0]


def _cell(text: str | None) -> str:
    return " ".join(_text(text).split()).replace("|", r"\|")
