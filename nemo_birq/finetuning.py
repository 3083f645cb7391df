"""From a pretrained ``.nemo`` to NeMo's own speech recognizers."""

from pathlib import Path

import torch
from nemo.collections.asr.models import ASRModel
from nemo.core import ModelPT
from omegaconf import DictConfig, OmegaConf, open_dict


def take_architecture(model_cfg: DictConfig, pretrained: str) -> None:
    """Copies preprocessor and encoder of a ``.nemo`` into the configuration of a recognizer.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(pretrained).is_file():
        raise FileNotFoundError(f"pretrained={pretrained} does not exist; name the .nemo that pretraining ended with")
    source = ModelPT.restore_from(pretrained, return_config=True)
    with open_dict(model_cfg):
        model_cfg.preprocessor = source.preprocessor
        model_cfg.encoder = source.encoder
        model_cfg.decoder.feat_in = source.encoder.d_model
    OmegaConf.resolve(model_cfg.encoder)


def check_encoder(model: ASRModel, pretrained: str) -> int:
    """Number of encoder tensors, after comparing each with the file's: NeMo passes over mismatches in silence.

    Raises:
        ValueError: naming the tensors that were not taken over.
    """
    source = ModelPT.restore_from(pretrained, map_location=torch.device("cpu")).encoder.state_dict()
    found = model.encoder.state_dict()
    different = [
        name
        for name in source.keys() | found.keys()
        if name not in source or name not in found or not torch.equal(source[name], found[name].cpu())
    ]
    if different:
        raise ValueError(f"encoder tensors were not taken over from {pretrained}: {sorted(different)}")
    return len(source)
