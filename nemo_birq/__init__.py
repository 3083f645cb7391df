"""BiRQ, bi-level self-labeling random quantization (arXiv 2509.15430), as a NeMo model collection."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

logging.getLogger("nv_one_logger").setLevel(logging.ERROR)  # at import, NeMo's telemetry warns that it is switched off

if TYPE_CHECKING:
    from nemo_birq.loading import load_encoder, load_model
    from nemo_birq.model import BiRQModel

__all__ = ["BiRQModel", "__version__", "load_encoder", "load_model"]

_MODULES = {"BiRQModel": "nemo_birq.model", "load_encoder": "nemo_birq.loading", "load_model": "nemo_birq.loading"}


def __getattr__(name: str) -> Any:
    """Imports a name on first access: importing NeMo takes ten seconds, and shard building and reports do not need it."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
