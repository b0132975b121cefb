"""Language models on disk: catalog, fetching, checking and loading.

Importing this package loads neither torch nor transformers.
"""

from erecap.models.adapters import describe_adapter, locate_adapter
from erecap.models.catalog import CATALOG, HubModel, ModelStatus, WheelModel, list_models
from erecap.models.checking import Check, check
from erecap.models.hashing import fingerprint
from erecap.models.loading import load
from erecap.models.locating import locate
from erecap.models.pulling import pull

__all__ = [
    "CATALOG",
    "Check",
    "HubModel",
    "ModelStatus",
    "WheelModel",
    "check",
    "describe_adapter",
    "fingerprint",
    "list_models",
    "load",
    "locate",
    "locate_adapter",
    "pull",
]
