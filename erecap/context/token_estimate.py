"""An estimate of a text's tokens by its scripts, for planners whose tokenizer nobody has named.

Four characters a token holds for English prose alone. In other scripts a token has one character or less, and digits,
punctuation and ids take more tokens than words do. Each weight below is near the largest that was measured among six
vocabularies (SmolLM2, Claude 2, cl100k, o200k, Mistral's 32k and its tekken), so that the estimate is rather too high:
a budget that is counted by it is kept. `docs/remote-planners.md` has the measured ratios.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from functools import lru_cache

# Tokens a character, from this code point on.
_BLOCKS: tuple[tuple[int, float], ...] = (
    (0x00, 0.7),  # control characters
    (0x20, 0.33),  # space; most of them belong to the word behind
    (0x21, 0.9),  # punctuation
    (0x30, 1.1),  # digits: many vocabularies have no token of two
    (0x3A, 0.9),
    (0x41, 0.45),  # capitals
    (0x5B, 0.9),
    (0x61, 0.28),  # small letters
    (0x7B, 0.9),
    (0x80, 1.5),  # Latin signs
    (0xC0, 3.5),  # Latin letters with marks: their words are not English, and fall apart
    (0x250, 2.0),  # phonetic signs and combining marks
    (0x370, 1.3),  # Greek
    (0x400, 1.05),  # Cyrillic
    (0x530, 2.2),  # Armenian
    (0x590, 1.35),  # Hebrew, Arabic, Syriac
    (0x900, 1.5),  # Devanagari
    (0x980, 2.2),  # the other scripts of India
    (0xE00, 2.05),  # Thai
    (0xE80, 3.0),  # Lao, Tibetan, Burmese
    (0x10A0, 2.2),  # Georgian
    (0x1100, 3.2),  # Jamo, Ethiopic, Cherokee, Khmer, Mongolian, and others
    (0x1E00, 2.5),  # Vietnamese and polytonic Greek
    (0x2000, 2.0),  # dashes, quotes, arrows, mathematics, boxes
    (0x2800, 3.0),  # Braille, of which plots in terminals are made
    (0x2900, 2.0),
    (0x3000, 1.5),  # punctuation of Chinese and Japanese
    (0x3040, 1.8),  # kana
    (0x3100, 3.0),
    (0x3400, 3.0),  # rare Han
    (0x4E00, 2.0),  # Han
    (0xA000, 3.0),
    (0xAC00, 2.7),  # Hangul
    (0xD7B0, 3.0),  # half surrogates, private use, presentation forms
    (0xFF00, 2.0),  # full-width forms
    (0x10000, 4.0),  # emoji, and all that is rare
)
_STARTS = [start for start, _ in _BLOCKS]
# Ids, hashes and base64 have hardly a letter that shares a token with its neighbour.
_ID = re.compile(r"\b(?=[a-zA-Z]*\d)(?=\d*[a-zA-Z])[a-zA-Z\d]{6,}\b")
_ID_WEIGHT = 0.65  # tokens more for each letter of an id


def estimate_tokens(text: str) -> int:
    """Tokens of `text`, rather too many than too few; 0 of an empty one."""
    total = sum(number * _weight(character) for character, number in Counter(text).items())
    total += _ID_WEIGHT * sum(sum(map(str.isalpha, found)) for found in _ID.findall(text))
    return math.ceil(total)


@lru_cache(4096)
def _weight(character: str) -> float:
    return _BLOCKS[bisect_right(_STARTS, ord(character)) - 1][1]
