"""Shortening a chat as text, without access to the model's cache: what remote models allow."""

from erecap.context.compaction.compact import Compacted, compact_messages
from erecap.context.compaction.edit_view import EditView
from erecap.context.compaction.mask import MARKER, Masked, drop_exchanges, mask_messages
from erecap.context.compaction.view import CompactView, Shown

__all__ = [
    "MARKER",
    "CompactView",
    "Compacted",
    "EditView",
    "Masked",
    "Shown",
    "compact_messages",
    "drop_exchanges",
    "mask_messages",
]
