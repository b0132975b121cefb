"""Age weight of a pruner's importance scores: fitted to the tokens that later plans attend to, after training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from erecap.tokens.scoring.learned import Pruner
from erecap.training.saliency.files import Labelled

FLOOR = 1e-4  # attention below which tokens are all the same: the logarithm levels off there


def fit_age(pruner: Pruner, rows: Sequence[Labelled]) -> float:
    """The weight of age for a trained pruner's session scores.

    A label is the largest attention weight that any later plan gives the token. An eviction needs the largest weight
    of the plans from then on, and that falls with the time since the token was read. So the logarithm of the weight
    still to come is fitted by least squares as a + b * score - c * log(age), over all tokens and all calls after them.
    Then score - (c / b) * log(age) ranks as the fit does.

    Args:
        rows: samples that the scores were trained on, with their hidden states.

    Returns:
        c / b; 0 where scores or age explain nothing, or the labels do not tell the calls apart (gradients).
    """
    known, wanted = [], []
    with torch.no_grad():
        for row in rows:
            scores = pruner(pruner.session_stage, row.hidden[pruner.stages.index(pruner.session_stage)])
            ahead = row.by_call.flip(0).cummax(0).values.flip(0)
            for call in range(len(row.by_call) - 1):
                # Goal and newest message are protected: nobody ranks them.
                open_ = (row.columns >= row.sample.head) & (row.columns < row.sample.newest[call])
                age = (row.sample.prompt(call) - row.columns[open_]).double()
                known.append(torch.stack([scores[open_].double(), age.log(), torch.ones_like(age)], 1))
                wanted.append((ahead[call + 1, row.columns[open_]].double() + FLOOR).log())
    if not known or sum(map(len, wanted)) < 3:
        return 0.0
    slope, decay, _ = torch.linalg.lstsq(torch.cat(known), torch.cat(wanted), driver="gelsd").solution.tolist()
    return max(0.0, -decay / slope) if slope > 0 else 0.0
