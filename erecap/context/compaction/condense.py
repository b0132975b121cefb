"""Shorten an observation by rules: words without information go, and nothing is paraphrased.

Names, numbers, ids, quoted text, code and negations stay as they are, and in their order. JSON loses nothing but the
white space between its tokens.
"""

from __future__ import annotations

import json
import re

# Words that say nothing about the world. No negation, no preposition of place, no "and": they tell things apart.
_EMPTY_WORDS = (
    "a an the you your it its is are was were be been being am this that these those there which who whose has have "
    "had do does did will would can could shall should may might must also just very quite really quickly around"
).split()
# The "A" of a label is no article.
_EMPTY = re.compile(rf"(?<!\S)(?-i:(?!A\s))(?:{'|'.join(_EMPTY_WORDS)})(?!\S)\s*", re.IGNORECASE)
_QUOTED = re.compile(r'("(?:\\.|[^"\\\n])*"|`[^`\n]*`)')
_BLANKS = re.compile(r"[ \t]{2,}")
_JSON_TOKEN = re.compile(r'("(?:\\.|[^"\\])*")|\s+')


def condense(text: str) -> str:
    """`text` in fewer words; unchanged where nothing can go. `condense(condense(text)) == condense(text)`."""
    if is_json(text):
        return _JSON_TOKEN.sub(lambda match: match[1] or "", text)
    # Every second part is quoted, and stays.
    parts = _QUOTED.split(text)
    parts[::2] = [_BLANKS.sub(" ", _EMPTY.sub("", part)) for part in parts[::2]]
    shorter = "".join(parts).strip()
    return shorter if shorter and len(shorter) < len(text) else text


def is_json(text: str) -> bool:
    """Return True if `text` is a JSON object or array. Single values count as prose."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
