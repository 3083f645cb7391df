"""Opens a ``.nemo`` or a Lightning checkpoint of this project, and says what is wrong with any other file."""

import pickle
from pathlib import Path
from typing import NamedTuple

import torch
from nemo.core import ModelPT
from nemo.utils import logging
from omegaconf import DictConfig

from nemo_birq.model import BiRQModel


class Opened(NamedTuple):
    """A model, ready for inference."""

    model: BiRQModel
    step: int | None
    """Optimizer steps of its training; a ``.nemo`` does not say."""


def open_model(path: str | Path) -> Opened:
    """The model of a file, in evaluation mode, on the GPU if there is one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: neither kind of file, or of a model that is not BiRQ: it has no enhanced labels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"model {path} does not exist: name a .nemo or a .ckpt of a BiRQ training run")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if path.suffix == ".nemo":
        try:
            config = ModelPT.restore_from(str(path), return_config=True)
        except Exception as error:  # tarfile, yaml and NeMo each have their own
            raise ValueError(f"model {path} cannot be read as a .nemo ({type(error).__name__}: {error})") from error
        _check_is_birq(path, config)
        with logging.temp_verbosity(logging.ERROR):  # it would print how the model was trained
            model, step = BiRQModel.restore_from(str(path), map_location=device), None
    elif path.suffix == ".ckpt":
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=False)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"model {path} cannot be read as a checkpoint ({type(error).__name__}: {error})") from error
        _check_is_birq(path, checkpoint.get(ModelPT.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("cfg"))
        with logging.temp_verbosity(logging.ERROR):
            model = BiRQModel.load_from_checkpoint(str(path), map_location=device, weights_only=False)
        step = int(checkpoint["global_step"])
    else:
        raise ValueError(f"model {path}: its name must end with .nemo or .ckpt")
    return Opened(model.eval().to(device), step)


def _check_is_birq(path: Path, config: DictConfig | None) -> None:
    if config is None or "birq" not in config:
        target = (config or {}).get("target", "an unknown class")
        raise ValueError(
            f"model {path} is no BiRQ model but {target}: it has no node `birq`, so no projections, codebook and enhanced "
            "labels. Name a file that scripts/speech_pre_training.py wrote, no fine-tuned recognizer and no stock NeMo model"
        )
