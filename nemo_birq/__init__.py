"""BiRQ, bi-level self-labeling random quantization (arXiv 2509.15430), as a NeMo model collection."""

import logging

logging.getLogger("nv_one_logger").setLevel(logging.ERROR)  # NeMo's telemetry reports at import that it is switched off

from nemo_birq.model import BiRQModel  # noqa: E402
from nemo_birq.version import VERSION as __version__  # noqa: E402

__all__ = ["BiRQModel", "__version__"]
