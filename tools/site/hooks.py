"""Hooks of mkdocs: links out of docs/ become plain text, for the files that they lead to are not part of the site."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?!\w+:)[^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page's text, in which `[text](../path)` is `text (path)` where the path lies outside docs/."""
    return inside(markdown, page.file.src_uri)


def inside(markdown: str, page: str) -> str:
    """Replace the links that leave docs/.

    Args:
        markdown: the text of a page.
        page: its path below docs/, such as `dev/architecture.md`.
    """

    def replaced(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), match[2]))
        if target.startswith("docs/"):
            return match[0]
        return f"{match[1]} (`{target}`)"

    return _LINK.sub(replaced, markdown)
