"""Making a chat shorter as text, without looking inside a model: what remote models can have, too."""

from erecap.context.compaction.mask import MARKER, Masked, drop_exchanges, mask_messages

__all__ = ["MARKER", "Masked", "drop_exchanges", "mask_messages"]
