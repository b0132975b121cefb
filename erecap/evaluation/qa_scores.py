"""Scores of short answers, as LongBench has them: F1 over words and exact match, after its normalisation.

Source: Bai et al., LongBench (2308.14508), whose normalisation is that of SQuAD.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """`answer` in lower case, without ASCII punctuation and articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def f1(answer: str, wanted: str) -> float:
    """Harmonic mean of precision and recall over normalised words, 0 to 1; 0 where none is shared."""
    ours, theirs = normalised(answer).split(), normalised(wanted).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def best_f1(answer: str, wanted: Sequence[str]) -> float:
    """The best F1 over several correct answers."""
    return max(f1(answer, one) for one in wanted)


def exact(answer: str, wanted: Sequence[str]) -> bool:
    """True if the answer is one of several correct ones, normalised."""
    return normalised(answer) in [normalised(one) for one in wanted]


def first_line(answer: str) -> str:
    """The first line that is not empty: all that counts where a model goes on with questions of its own."""
    return answer.lstrip("\n").split("\n")[0]
