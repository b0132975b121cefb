"""Tokens of the new messages in a chat, and the marks at the ends of its messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erecap.context.tokenize import Continuation, Prompt, encode_from
from erecap.decoding.special import SpecialTokens
from erecap.errors import RunError
from erecap.session.conversation.chat import ChatPart
from erecap.session.conversation.digest import RunningDigest
from erecap.session.conversation.transcript import Mark, Transcript


def encode_behind(tokenizer: Any, part: ChatPart, base: Mark | None) -> Continuation:
    """Tokens of `part` after the mark `base`; None: from the beginning of the chat.

    Raises:
        RunError: the part begins later, so that what lies between is not at hand any more.
    """
    start = (base.characters if base else 0) - part.offset
    if start < 0:
        raise RunError(
            "the end of the session's own chat is no longer among what it has read (a failed edit, a changed model or "
            "another chat took its place); give the whole chat to generate or read"
        )
    return encode_from(tokenizer, part.text, start)


def mark_messages(
    part: ChatPart, base: Mark | None, encoded: Continuation, first: int, known: Sequence[Mark]
) -> list[Mark]:
    """A mark for each message of `part` that ends after `base`.

    The message of `base` itself may go on, since it was read before it was complete. It then gets a second mark, which
    covers all of it.

    Args:
        encoded: the tokens after `base`.
        first: token index of the first of them.
        known: marks read earlier; those in the text before `part.before` are looked up here.
    """
    start = (base.characters if base else 0) - part.offset
    rest = part.text[start:]
    places = [(max(0, begin - start), max(0, end - start)) for begin, end in part.spans]
    prompt = Prompt(rest, encoded.ids, places, encoded.offsets, part.skipped)
    digests = _digests(part, known)
    done = base.message + 1 if base else 0
    marks = []
    grown = done - 1 - part.first  # the row of the base's own message
    if base is not None and 0 <= grown < len(places) and part.spans[grown][1] > start:
        marks.append(_grown(base, part, grown, encoded, first, digests[grown]))
    for row in range(max(0, done - part.first), len(places)):
        begin, end = part.spans[row]
        skipped = part.skipped[row]
        low, high = prompt.token_span(row, skipped, skipped + end - begin)
        starts = tuple(encoded.offsets[n][0] - places[row][0] + skipped for n in range(low, high))
        aligned = high == 0 or encoded.offsets[high - 1][1] <= places[row][1]
        message = part.first + row
        marks.append(Mark(message, part.offset + end, digests[row], first + high, aligned, first + low, starts))
    return marks


def _grown(base: Mark, part: ChatPart, row: int, encoded: Continuation, first: int, digest: bytes) -> Mark:
    """The mark of a whole message whose beginning ends at `base`."""
    begin, end = part.spans[row]
    read = base.characters - part.offset  # up to here
    count = sum(low < end - read for low, _ in encoded.offsets)
    aligned = count == 0 or encoded.offsets[count - 1][1] <= end - read
    shown = read - begin + part.skipped[row]  # characters of the content before the base
    starts = tuple(shown + low for low, _ in encoded.offsets[:count])
    if base.starts:
        # Tokens between the two, of a correction, count as the beginning of what follows.
        starts = (*base.starts, *(shown,) * (first - base.first - len(base.starts)), *starts)
    begins = base.first if base.starts else first
    return Mark(base.message, part.offset + end, digest, first + count, aligned, begins, starts)


def answer_starts(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[int, ...]:
    """The character of `text` at which each of the tokens `ids`, that it was generated in, begins."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if list(encoded["input_ids"]) == list(ids):
        return tuple(int(low) for low, _ in encoded["offset_mapping"])
    # Other tokens than the text's own. Half a character decodes to one character, too, so that starts still rise.
    special = SpecialTokens(tokenizer)
    written = [len(special.text(ids[:count])) for count in range(len(ids))]
    return tuple(min(start, len(text)) for start in written)


def _digests(part: ChatPart, known: Sequence[Mark]) -> list[bytes]:
    """Digest of the chat up to the end of each message of `part`."""
    found = [b""] * len(part.spans)
    running = part.before.copy() if part.offset else RunningDigest()
    begin = running.characters
    for row in sorted(range(len(part.spans)), key=lambda row: part.spans[row][1]):
        end = part.spans[row][1] + part.offset
        if end < begin:
            found[row] = next((mark.digest for mark in known if mark.characters == end), b"")
            continue
        found[row] = running.update(part.text[running.characters - part.offset : end - part.offset]).digest()
    return found


def agreement(
    tokenizer: Any, part: ChatPart, transcript: Transcript, known: int
) -> tuple[int, int, Continuation] | None:
    """The longest common beginning of the tokens read and the tokens of the chat's own text; None: it cannot be told.

    The messages before the newest two are taken to agree: they were looked at when these were new.

    Args:
        known: marks of the transcript that lie in the chat.

    Returns:
        Marks to go back to, tokens after them that agree, and the tokens of the text after those marks.
    """
    for number in range(max(0, known - 1), -1, -1):
        base = transcript.marks[number - 1] if number else None
        if base is None and (part.offset or transcript.older):
            return None
        if base is not None:
            if base.characters < part.offset or base.tokens < transcript.forgotten:
                return None
            if base.generated or not base.aligned:
                continue
        encoded = encode_from(tokenizer, part.text, base.characters - part.offset if base else 0)
        if encoded.exact:
            return number, common_tokens(transcript, base, encoded.ids), encoded
    return None


def common_tokens(transcript: Transcript, base: Mark | None, ids: Sequence[int]) -> int:
    """Number of `ids` that were read behind the mark `base`, one after the other."""
    place = base.tokens if base else 0
    if any(at >= place for at, _ in transcript.corrections):
        return 0  # tokens that no text stands for are in between
    read = transcript.since(place)
    same = next((n for n, (a, b) in enumerate(zip(read, ids, strict=False)) if a != b), None)
    return min(len(read), len(ids)) if same is None else same
