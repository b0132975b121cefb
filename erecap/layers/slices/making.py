"""Slices of a model as a layer plan: chosen by importance, fitted layer by layer, sparsified if asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from erecap.errors import ModelError
from erecap.layers.applied import plan_of
from erecap.layers.applying import apply
from erecap.layers.decoder import planned_decoder
from erecap.layers.plan import LayerPlan
from erecap.layers.slices.chosen import chosen
from erecap.layers.slices.importance import Importance, measured_importance, weight_importance
from erecap.layers.slices.reconstruction import reconstruct
from erecap.layers.slices.settings import SliceSettings
from erecap.layers.slices.streams import Calibration, Ids
from erecap.layers.slices.two_four import two_four_weights

Say = Callable[[str], None]


class Slicer:
    """Makes slices of one model. What its calibration text tells is found out once for all of them.

    Args:
        model: a causal language model of transformers, in eval mode, without a layer plan. It stays as it is.
        ids: calibration texts as token ids; may be empty where no slice needs any.

    Raises:
        ModelError: another kind of model, or one that has a plan.
    """

    def __init__(self, model: Any, ids: Ids = (), say: Say = lambda text: None) -> None:
        planned_decoder(model)
        if plan_of(model) is not None:
            raise ModelError("the model has a layer plan already; undo it first")
        self._model, self._ids, self._say = model, ids, say
        self._found: dict[tuple[str, bool, bool], Importance] = {}
        self._calibration: Calibration | None = None

    def plan(self, settings: SliceSettings) -> LayerPlan:
        """One slice, without a base. `found` says how much went, and how well what is left was fitted.

        Raises:
            ConfigError: shares that no part fits, or more than can go.
            ModelError: a model that cannot be sliced so, or whose slices do not equal its masked parts.
        """
        parts = {"heads": bool(settings.heads), "channels": bool(settings.channels)}
        plan = chosen(self._model, self._importance(settings.importance, **parts), settings)
        found: dict[str, Any] = {"gone": self._gone(plan)}
        with apply(self._model, plan):  # compares it with the masked model
            pass
        if settings.reconstruct != "none":
            fit = reconstruct(self._model, plan, self._read(), settings, self._say)
            plan = replace(plan, tuned=fit.weights)
            found["missed"] = {"before": round(fit.before, 5), "after": round(fit.after, 5)}
        if settings.two_four is not None:
            self._say("2:4 masks")
            with apply(self._model, plan, check=False):
                plan = replace(plan, tuned=two_four_weights(self._model, settings.two_four, self._ids))
        return replace(plan, found=found)

    def _importance(self, kind: str, heads: bool, channels: bool) -> Importance:
        key = (kind, heads, channels)
        if key not in self._found:
            if not (heads or channels):
                self._found[key] = Importance()
            elif kind == "weights":
                self._found[key] = weight_importance(self._model, heads=heads, channels=channels)
            else:
                self._say(f"importance by {kind} on {sum(map(len, self._ids)):,} tokens")
                self._found[key], self._calibration = measured_importance(
                    self._model, self._ids, kind, heads=heads, channels=channels
                )
        return self._found[key]

    def _read(self) -> Calibration:
        if self._calibration is None:
            self._calibration = Calibration(self._model, self._ids)
        return self._calibration

    def _gone(self, plan: LayerPlan) -> dict[str, str]:
        """Shares that went, in words, such as `54 of 270 (0.2)`."""
        layers = planned_decoder(self._model).layers
        widths = {
            "heads": lambda layer: layer.self_attn.o_proj.in_features // layer.self_attn.head_dim,
            "channels": lambda layer: layer.mlp.down_proj.in_features,
        }
        found = {}
        for part, width in widths.items():
            slices = getattr(plan, part)
            if slices:
                gone, total = sum(map(len, slices.values())), sum(map(width, layers))
                found[part] = f"{gone} of {total} ({gone / total:.3g})"
        return found
