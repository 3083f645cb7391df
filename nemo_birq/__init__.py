"""BiRQ, bi-level self-labeling random quantization (arXiv 2509.15430), as a NeMo model collection."""

import logging
from typing import TYPE_CHECKING

__version__ = "0.1.0"

logging.getLogger("nv_one_logger").setLevel(logging.ERROR)  # NeMo's telemetry reports at import that it is switched off

if TYPE_CHECKING:
    from nemo_birq.model import BiRQModel

__all__ = ["BiRQModel", "__version__"]


def __getattr__(name: str) -> type:
    """Imports the model when it is asked for: NeMo takes ten seconds, and builders of shards and reports do without."""
    if name == "BiRQModel":
        from nemo_birq.model import BiRQModel

        return BiRQModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
