"""The masked oracle of a session: one stock forward over everything read, masked by the log of stored tokens."""

from __future__ import annotations

import torch

from erecap.session import ReplanSession
from erecap.tokens.cache.masks import layer_windows


class Watch:
    """Records, for every token a session reads, what each layer stored then and which logits came out."""

    def __init__(self, session: ReplanSession) -> None:
        self.session = session
        self.seen: dict[int, list[set[int]]] = {}  # token index -> per layer, token indices visible to it
        self.logits: dict[int, torch.Tensor] = {}
        self.positions: dict[int, int] = {}
        self.ids: dict[int, int] = {}
        reader = session.engine
        forward = reader.forward

        def watched(ids, keep, decode=False):  # type: ignore[no-untyped-def]
            start = session.cache.get_seq_length()
            shift = reader.shift
            for place in [place for place in self.logits if place >= start]:
                del self.logits[place]  # of tokens rolled back since
            rows = forward(ids, keep, decode)
            layers = session.cache.layouts()
            for offset, token in enumerate(ids):
                place = start + offset
                self.ids[place], self.positions[place] = token, place - shift
                self.seen[place] = [{i for i in layout.index[0].tolist() if i <= place} for layout in layers]
            kept = rows.shape[0]
            for offset in range(kept):
                self.logits[start + len(ids) - kept + offset] = rows[offset]
            if keep == 1:  # rows of dropped tokens have no logits
                assert kept == 1
            return rows

        reader.forward = watched

    def worst_error(self) -> float:
        """Largest difference to the oracle over all recorded logits still standing, relative to its largest logit."""
        model = self.session.model
        total = self.session.cache.get_seq_length()
        ids = torch.tensor([[self.ids[i] for i in range(total)]])
        where = [self.positions[i] for i in range(total)]
        positions = torch.tensor([where])
        windows = layer_windows(model.config)
        masks = []
        for layer, window in enumerate(windows):
            allowed = torch.eye(total, dtype=torch.bool)
            for i in range(total):
                visible = [j for j in self.seen[i][layer] if window is None or where[j] > where[i] - window]
                if i in self.seen[i][layer]:
                    allowed[i, visible] = True
            low = torch.finfo(torch.float32).min
            masks.append(torch.zeros(1, 1, total, total).masked_fill(~allowed[None, None], low))
        handles = [
            layer.register_forward_pre_hook(
                lambda m, a, k, number=number: (a, k | {"attention_mask": masks[number]}), with_kwargs=True
            )
            for number, layer in enumerate(model.get_decoder().layers)
        ]
        try:
            with torch.no_grad():
                expected = model(
                    ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False
                ).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        places = [i for i in self.logits if i < total]
        error = max(float((self.logits[i] - expected[i]).abs().max()) for i in places)
        return error / float(expected.abs().max())
