"""Opens an encoder of any supported kind by its path."""

from pathlib import Path

from nemo_birq.evaluation.encoders.nemo import NemoEncoder
from nemo_birq.evaluation.encoders.protocol import LayeredEncoder
from nemo_birq.evaluation.encoders.transformers_folder import CONFIG, TransformersEncoder
from nemo_birq.loading import load_encoder


def check_path(path: Path) -> None:
    """Checks that a path can be that of an encoder, before any work.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is a file of another kind, or a folder without ``config.json``.
    """
    if not path.exists():
        raise FileNotFoundError(f"encoder {path} does not exist: give a .nemo, a .ckpt, or a folder of transformers")
    if path.is_dir() and not (path / CONFIG).is_file():
        raise ValueError(f"encoder {path} has no {CONFIG}: give a folder that birq export or save_pretrained wrote")
    if path.is_file() and path.suffix not in (".nemo", ".ckpt"):
        raise ValueError(f"encoder {path}: give a .nemo, a .ckpt, or a folder of transformers")


def open_encoder(path: Path) -> LayeredEncoder:
    """Opens a ``.nemo``, a ``.ckpt`` of BiRQ, or a folder of transformers, on the GPU if there is one.

    Raises:
        FileNotFoundError, ValueError: see ``check_path``, ``loading.load_encoder`` and ``TransformersEncoder``.
    """
    check_path(path)
    return TransformersEncoder(path) if path.is_dir() else NemoEncoder(load_encoder(path))
