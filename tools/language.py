"""Language check of docstrings and comments, by the words of docs/glossary.md.

python -m tools.language            # every Python file of the project; exit code 1 with one line an offence

Module headers and the first lines of public docstrings name the thing: no riddles. No docstring and no comment uses
a phrase that the glossary replaces. Text in backticks is code, and exempt; so are strings that are not docstrings.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("erecap", "planners", "envs", "tools", "tests", "examples")
RIDDLES = ("What", "Which", "Whether", "How")
MOST_CHARACTERS, MOST_WORDS = 120, 25  # of a module header, and of its first sentence

# Phrases that the glossary replaces, and the words to write. Kept precise: a "free place" of a room is no token index.
REPLACED = {
    r"let(s|ting)? go": "evicted, removed or dropped",
    r"clos(e|es|ed|ing) up": "reposition",
    r"(take|takes|taken|taking|took) back": "roll back",
    r"(put|puts|putting) off": "defer",
    r"overlays?": "injected correction",
    r"attention mass|masses": "attention weight",
    r"attention (is |was )?paid|pays? each token|pays? the stored": "attention weight",
    r"tiers?": "eviction priority",
    r"ratings?": "importance score",
    r"worthless": "stale",
    r"(flat|flat-out) (decoders?|layers?|reads?)|(read|reads|written out|reading) flat": "fused decoder",
    r"twins?": "fork",
    r"rendezvous": "pool",
    r"sorted places|rising places|order of (its |their )?places": "token index",
    r"places? (of|at which) (each|every|the|a) tokens?|tokens? at places?": "token index",
    r"asks? again": "replan",
}
_REPLACED = [(re.compile(rf"\b({phrase})\b", re.IGNORECASE), instead) for phrase, instead in REPLACED.items()]
_CODE = re.compile(r"`[^`]*`")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def offences(source: str, name: str) -> list[str]:
    """Check one file.

    Args:
        source: its text.
        name: its path, as the lines of the result begin.

    Returns:
        `name:line: problem`, in order of lines.

    Raises:
        SyntaxError: the text is no Python.
    """
    tree = ast.parse(source)
    found = [*_headers(tree), *_phrases(_docstrings(tree)), *_phrases(_comments(source))]
    return [f"{name}:{line}: {problem}" for line, problem in sorted(found)]


def main(root: Path = ROOT) -> None:
    """Check the folders of `root`, print every offence, and exit with code 1 if there is one."""
    files = sorted(file for folder in FOLDERS for file in (root / folder).rglob("*.py"))
    found = [line for file in files for line in offences(file.read_text("utf-8"), str(file.relative_to(root)))]
    print(*found, f"{len(files)} files, {len(found)} offences against docs/glossary.md", sep="\n")
    sys.exit(bool(found))


def _headers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and problem of every public docstring whose first line is a riddle, or a module header that is too long."""
    for node, named in _public(tree, "module"):
        text = ast.get_docstring(node)
        if text is None:
            continue
        first, line = text.splitlines()[0], node.body[0].lineno
        riddle = re.match(r"\w+", first)
        if riddle and riddle[0] in RIDDLES:
            yield line, f'docstring of {named} begins with "{riddle[0]}": name the thing, as a noun or an imperative'
        if isinstance(node, ast.Module):
            words = len(re.split(r"(?<=[.:;])\s", first)[0].split())
            if len(first) > MOST_CHARACTERS or words > MOST_WORDS:
                limits = f"at most {MOST_CHARACTERS} characters and {MOST_WORDS} words a sentence"
                yield line, f"module header has {len(first)} characters and {words} words: {limits}"


def _public(node: Documented, named: str) -> Iterator[tuple[Documented, str]]:
    """The module, its public classes and functions, and the public methods of these classes."""
    yield node, named
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
                yield from _public(child, child.name)


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """First line and text of every docstring, private ones too."""
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node) is not None:
            yield node.body[0].lineno, ast.get_docstring(node, clean=False) or ""


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """First line and text of every block of comments, so that a phrase over a line break is found."""
    start, lines, column = 0, list[str](), 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if lines and (token.start[0], token.start[1]) != (start + len(lines), column):
                yield start, "\n".join(lines)
                lines = []
            if not lines:
                start, column = token.start
            lines.append(token.string.lstrip("# "))
    if lines:
        yield start, "\n".join(lines)


def _phrases(texts: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Line and problem of every replaced phrase; `texts` are texts with the numbers of their first lines."""
    for start, text in texts:
        prose = _CODE.sub(lambda code: "\n" * code[0].count("\n") + "``", text)
        prose = re.sub(r"\n +", "\n", prose)
        for phrase, instead in _REPLACED:
            for hit in phrase.finditer(prose.replace("\n", " ")):
                yield start + prose.count("\n", 0, hit.start()), f'"{hit[0]}": the glossary says {instead}'


if __name__ == "__main__":
    main()
