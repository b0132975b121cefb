"""Token sequences of chat transcripts with labels on the plans, exactly as a planner reads and writes them.

A transcript is read once: the prompt of every planning call is a prefix of the sequence. Where the expert's plan is the
one that was played, its tokens in the transcript are the labels. Where another plan was played, the expert's is a
*branch*: its tokens stand after the transcript, with the positions that they would have behind their prompt, and see
that prompt and themselves only. So one forward pass gives the logits of all plans of an episode.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from erecap.context.tokenize import encode_from, render_chat, render_text
from erecap.errors import ModelError
from erecap.generation import Message
from erecap.tokens.cache.masks import layer_windows
from erecap.training.branch_attention import split_attention


class PlanTarget(Protocol):
    """The expert's plan for one planning call."""

    @property
    def message(self) -> int:
        """Index of the assistant message that answered the call."""

    @property
    def plan(self) -> str:
        """Commands, one a line."""


@dataclass(frozen=True)
class Branch:
    """Tokens `[start, end)` of a sequence that continue its first `prompt` tokens."""

    start: int
    end: int
    prompt: int


@dataclass(frozen=True)
class PlanSequence:
    """One transcript as tokens, with its labels."""

    name: str
    ids: torch.Tensor  # (tokens,) int64: the transcript, then the branches
    rows: torch.Tensor  # (labels,) int64: the logits at this token predict ...
    labels: torch.Tensor  # (labels,) int64: ... this token
    calls: torch.Tensor  # (labels,) int64: number of the planning call, counted from 0
    branches: tuple[Branch, ...]
    cut: int  # planning calls that lie beyond `max_tokens`

    @property
    def tokens(self) -> int:
        """Tokens of the transcript and its branches."""
        return len(self.ids)

    @property
    def transcript(self) -> int:
        """Tokens of the transcript alone."""
        return self.branches[0].start if self.branches else len(self.ids)

    def positions(self) -> torch.Tensor:
        """`(tokens,)` int64: position of every token in its own reading order."""
        positions = torch.arange(len(self.ids))
        for branch in self.branches:
            positions[branch.start : branch.end] += branch.prompt - branch.start
        return positions

    def visible(self, window: int | None, device: torch.device | str = "cpu") -> torch.Tensor:
        """`(1, 1, tokens, tokens)` bool on `device`: the tokens (last axis) that each token may attend to.

        Args:
            window: the layer's sliding window in positions, or None.
        """
        count, transcript = len(self.ids), self.transcript
        number = torch.arange(count, device=device)
        owner = torch.zeros(count, dtype=torch.long, device=device)
        known = number + 1  # tokens of the transcript that each token may see
        for index, branch in enumerate(self.branches, start=1):
            owner[branch.start : branch.end] = index
            known[branch.start : branch.end] = branch.prompt
        column = number.unsqueeze(0)
        allowed = (column < transcript) & (column < known.unsqueeze(1))
        allowed |= (owner.unsqueeze(0) == owner.unsqueeze(1)) & (column <= number.unsqueeze(1))
        if window is not None:
            positions = self.positions().to(device)
            allowed &= positions.unsqueeze(0) > positions.unsqueeze(1) - window
        return allowed[None, None]


def plan_sequence(
    name: str,
    messages: Sequence[Message],
    targets: Sequence[PlanTarget],
    tokenizer: Any,
    ends: Collection[int],
    max_tokens: int,
) -> PlanSequence | None:
    """The token sequence of a transcript, or None where not one planning call fits.

    Args:
        name: of the transcript, for error messages.
        messages: the whole chat.
        targets: in order of their messages, one per planning call.
        tokenizer: a fast tokenizer with a chat template.
        ends: ids that end an answer (`erecap.decoding.stopping.answer_ends`); the first after a plan is its last label.
        max_tokens: most tokens of the sequence, branches included. Later planning calls are left out and counted.

    Raises:
        ModelError: the chat template rewrites earlier messages, so that the prompts of an episode are no prefixes of
            one sequence; or it does not close an answer with one of `ends`.
    """
    chat = render_chat(messages, tokenizer, False)
    starts = []
    for target in targets:
        prompt = render_text(messages[: target.message], tokenizer, True)
        if not chat.text.startswith(prompt):
            raise ModelError(
                f"{name}: the chat template rewrites what stands before message {target.message}, so the planning "
                "calls of an episode share no beginning; another template is needed for training"
            )
        starts.append(len(prompt))
    build = _Build(max_tokens)
    done = 0
    for call, (target, start) in enumerate(zip(targets, starts, strict=True)):
        build.ids += encode_from(tokenizer, chat.text[:start], done).ids
        done = start
        played = messages[target.message]["content"] == target.plan
        if played:
            following = starts[call + 1] if call + 1 < len(starts) else len(chat.text)
            answer = _answer(name, chat.text[:following], start, chat.spans[target.message][1], tokenizer, ends)
        else:
            other: Message = {"role": "assistant", "content": target.plan}
            written = render_chat([*messages[: target.message], other], tokenizer, False)
            answer = _answer(name, written.text, start, written.spans[-1][1], tokenizer, ends)
        if not build.add(call, answer, branch=not played):
            break
    return build.finish(name, len(targets))


def _answer(name: str, text: str, start: int, content_end: int, tokenizer: Any, ends: Collection[int]) -> list[int]:
    """Tokens of `text` from character `start` to the end of the turn whose content ends at `content_end`."""
    found = encode_from(tokenizer, text, start)
    for index, (token, (low, _)) in enumerate(zip(found.ids, found.offsets, strict=True)):
        if token in ends and low >= content_end - start:
            return found.ids[: index + 1]
    raise ModelError(f"{name}: the chat template closes an answer with no token that ends generation")


class _Build:
    """A sequence that grows call by call."""

    def __init__(self, max_tokens: int) -> None:
        self.ids: list[int] = []  # the transcript up to the prompt of the newest call
        self._max = max_tokens
        self._calls: list[tuple[int, int, list[int], bool]] = []  # (call, tokens of its prompt, answer, branch)
        self._kept = self._branched = 0  # tokens of the transcript that are needed, and of branches

    def add(self, call: int, answer: list[int], branch: bool) -> bool:
        """Label a call whose prompt is `ids`; False where it does not fit."""
        prompt = len(self.ids)
        # What predicts nothing, the last token of an answer, is not read.
        kept, branched = (prompt, self._branched + len(answer) - 1) if branch else (prompt + len(answer) - 1, 0)
        branched = max(branched, self._branched)
        if kept + branched > self._max:
            return False
        self._kept, self._branched = kept, branched
        self._calls.append((call, prompt, answer, branch))
        return True

    def finish(self, name: str, calls: int) -> PlanSequence | None:
        if not self._calls:
            return None
        _, prompt, answer, branch = self._calls[-1]
        ids = self.ids[:prompt] + ([] if branch else answer[:-1])
        rows: list[int] = []
        labels: list[int] = []
        owners: list[int] = []
        branches = []
        for call, prompt, answer, branch in self._calls:
            first = prompt
            if branch:
                first = len(ids)
                ids += answer[:-1]
                branches.append(Branch(first, len(ids), prompt))
            rows += [prompt - 1, *range(first, first + len(answer) - 1)]
            labels += answer
            owners += [call] * len(answer)
        return PlanSequence(
            name,
            torch.tensor(ids),
            torch.tensor(rows),
            torch.tensor(labels),
            torch.tensor(owners),
            tuple(branches),
            calls - len(self._calls),
        )


def plan_logits(model: Any, sequence: PlanSequence, may: torch.Tensor | None = None) -> torch.Tensor:
    """Logits `(labels, vocabulary)` at `sequence.rows`, on the model's device; only these are computed.

    Without branches this is the model's plain causal forward. With branches the mask is explicit, which needs the
    attention implementation `sdpa`.

    Args:
        may: `(1, 1, tokens, tokens)` bool, what each token may attend to at most; None: all that it could see.

    Raises:
        ValueError: branches or `may`, and another attention implementation.
    """
    device = model.device
    extra: dict[str, Any] = {}
    attention: AbstractContextManager[None] = nullcontext()
    if sequence.branches or may is not None:
        config = model.config.get_text_config(decoder=True)
        require_sdpa(config)
        extra["position_ids"] = sequence.positions().unsqueeze(0).to(device)
        extra["attention_mask"] = mask = _masks(sequence, config, device, may)
        # Checkpointing runs the layers once more after this context has ended.
        again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        plain = may is None and isinstance(mask, torch.Tensor) and not any(layer_windows(config))
        if plain and not again:
            attention = split_attention(config, sequence.transcript, mask)
    with attention:
        output = model(
            input_ids=sequence.ids.unsqueeze(0).to(device),
            use_cache=False,
            logits_to_keep=sequence.rows.to(device),
            **extra,
        )
    return output.logits[0]


def _masks(sequence: PlanSequence, config: Any, device: Any, may: torch.Tensor | None) -> Any:
    masks = {window: sequence.visible(window, device) for window in set(layer_windows(config))}
    if may is not None:
        may = may.to(device)
        masks = {window: mask & may for window, mask in masks.items()}
    return by_layer(config, masks)


def require_sdpa(config: Any) -> None:
    """Raises ValueError where explicit masks of booleans would not be understood."""
    if config._attn_implementation != "sdpa":
        raise ValueError(f"masks need the attention implementation sdpa, not {config._attn_implementation!r}")


def by_layer(config: Any, masks: Mapping[int | None, torch.Tensor]) -> Any:
    """Masks by sliding window as transformers takes them: one for all layers; or, where layers differ, one a kind."""
    windows = layer_windows(config)
    if len(masks) == 1:
        return masks[windows[0]]
    return {kind: masks[window] for kind, window in zip(config.layer_types, windows, strict=False)}
