"""Opens what features can be taken from: a BiRQ model, or any NeMo model with a Conformer encoder."""

from pathlib import Path
from typing import NamedTuple

import torch
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.modules import ConformerEncoder
from nemo.core import ModelPT
from nemo.utils import logging
from torch import nn

from nemo_birq.checkpoint.nemo_archive import read_config
from nemo_birq.quality.checkpoints import open_model


class OpenedEncoder(NamedTuple):
    """Front end and encoder, in evaluation mode."""

    model: ModelPT
    """With ``preprocessor`` and ``encoder``."""
    step: int | None
    """Optimizer steps of its pretraining; a ``.nemo`` does not say."""

    @property
    def preprocessor(self) -> nn.Module:
        return self.model.preprocessor

    @property
    def encoder(self) -> ConformerEncoder:
        return self.model.encoder

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return int(self.model.cfg.preprocessor.sample_rate)

    @property
    def depth(self) -> int:
        """L."""
        return len(self.encoder.layers)


def open_encoder(path: str | Path) -> OpenedEncoder:
    """Encoder of a BiRQ ``.nemo`` or ``.ckpt``, or of the ``.nemo`` of a recognizer or another self-supervised model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, or a model without a Conformer encoder.
    """
    path = Path(path)
    if path.suffix != ".nemo" or not path.is_file():
        return OpenedEncoder(*open_model(path))  # it says what is wrong
    config = read_config(path)
    if "birq" in config:
        return OpenedEncoder(*open_model(path))
    encoder = config.get("encoder") or {}
    if not str(encoder.get("_target_")).endswith(".ConformerEncoder") or encoder.get("reduction"):
        raise ValueError(
            f"model {path} is a {config.target} with the encoder {encoder.get('_target_')}: features are taken from the "
            "layers of a ConformerEncoder (also FastConformer) without `reduction`"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with logging.temp_verbosity(logging.ERROR):  # it would print how the model was trained
        model = ASRModel.restore_from(str(path), map_location=device)
    return OpenedEncoder(model.eval().to(device), None)
