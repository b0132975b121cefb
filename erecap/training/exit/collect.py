"""Features of the candidates of every decoded token after every layer, and whether the best one is final."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erecap.decoding.exits.candidates import Followers, Slice, features
from erecap.decoding.exits.states import ExitText, HeadOf, layer_states
from erecap.errors import RunError

WIDEST_GAP = 3  # layers between two looks in training, at most: at run time it depends on the schedule


@dataclass(frozen=True)
class Looks:
    """Looks at the tokens of some texts.

    Attributes:
        layers: numbers of layers run, rising; the last column of the other tensors is the last of them.
        features: `(tokens, layers, 12)`.
        right: `(tokens, layers)` bool, True where the best candidate is the final token.
        texts: `(tokens,)` int64, number of the text that each token is of.
    """

    layers: tuple[int, ...]
    features: torch.Tensor
    right: torch.Tensor
    texts: torch.Tensor

    def part(self, stay: torch.Tensor) -> Looks:
        """The tokens for which `stay` `(tokens,)` bool holds."""
        return Looks(self.layers, self.features[stay], self.right[stay], self.texts[stay])


def collect_looks(
    model: Any,
    texts: Sequence[ExitText],
    layers: Sequence[int],
    small: Sequence[int],
    *,
    tokens: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> Looks:
    """Look at up to `tokens` decoded tokens of `texts`, after each of `layers`.

    The final token is the model's own choice after all layers, among those that a grammar allows.

    Raises:
        RunError: a hidden state that is not finite, or no token that is decoded with a choice.
    """
    head, generator = HeadOf(model), torch.Generator().manual_seed(seed)
    vocabulary = torch.tensor(list(small), dtype=torch.long)
    rows: list[torch.Tensor] = []
    right: list[torch.Tensor] = []
    owners: list[int] = []
    for number, text in enumerate(texts):
        places = [n for n in range(len(text.rows)) if len(text.allowed_at(n) or (0, 0)) > 1][: tokens - len(rows)]
        if not places:
            continue
        states = layer_states(model, text.ids, [text.rows[n] for n in places])
        if not bool(torch.isfinite(states).all()):
            raise RunError(f"{text.name}: a hidden state is not finite")
        final = head.logits(head.normed(states[-1]))
        normed = [head.normed(states[layer - 1]) for layer in layers]
        for row, place in enumerate(places):
            allowed = text.allowed_at(place)
            among, wanted = _slice(text, place, allowed, vocabulary, final[row])
            own = torch.stack([layer[row] for layer in normed])
            found, named = _look(head.logits(own, among.ids), among, generator)
            rows.append(found)
            right.append(named == wanted)
            owners.append(number)
        say(f"{text.name}: {len(rows)} tokens so far")
        if len(rows) >= tokens:
            break
    if not rows:
        raise RunError("the texts hold no token that is decoded with a choice")
    return Looks(tuple(layers), torch.stack(rows), torch.stack(right), torch.tensor(owners))


def _slice(
    text: ExitText, place: int, allowed: Sequence[int] | None, small: torch.Tensor, final: torch.Tensor
) -> tuple[Slice, int]:
    """The tokens that are looked at, as while decoding, and the final token."""
    if allowed is not None:
        ids = torch.tensor(sorted(allowed))
        return Slice(ids), int(ids[final[ids].argmax()])
    first = torch.tensor(Followers(text.ids[: text.rows[place] + 1]).after([]), dtype=torch.long)
    return Slice(torch.cat([first, small[~torch.isin(small, first)]]), len(first)), int(final.argmax())


def _look(logits: torch.Tensor, among: Slice, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Features `(layers, 12)` and the best candidate `(layers,)` from logits `(layers, n)`."""
    gaps = torch.randint(1, WIDEST_GAP + 1, (len(logits),), generator=generator).tolist()
    found, named = [], []
    for layer, (row, gap) in enumerate(zip(logits, gaps, strict=True)):
        best = among.best(row)
        found.append(features(row[best], logits[layer - gap][best] if layer >= gap else None))
        named.append(among.ids[best[0]])
    return torch.stack(found), torch.stack(named)
