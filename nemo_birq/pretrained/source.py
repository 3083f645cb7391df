"""Reading of a pretrained file, ``.nemo`` or ``.ckpt``, of BiRQ or of any NeMo model with a Conformer encoder."""

import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from nemo.core import ModelPT
from omegaconf import DictConfig
from torch import Tensor

from nemo_birq.checkpoint.artifacts import LABEL_TENSORS
from nemo_birq.checkpoint.foreign_config import refuse_resolvers
from nemo_birq.checkpoint.lightning_checkpoint import peek_checkpoint, read_checkpoint
from nemo_birq.checkpoint.nemo_archive import read_config, read_weights
from nemo_birq.utils.torch_files import load_torch_file

WRAPPED, MASKING = "encoder.pre_encode.pre_encode.", "encoder.pre_encode.masking."
"""Names of the subsampling and of the masking where NeMo masks after the subsampling (``mask_position: post_conv``)."""


class Source(NamedTuple):
    """The content of a pretrained file."""

    path: Path
    config: DictConfig
    """Configuration of the model."""
    weights: dict[str, Tensor]
    """State dict of the model, on the CPU."""
    label_tensors: dict[str, Tensor] | None
    """Tensors that define the labels of a BiRQ model; None for other models, and for bare encoders."""

    @property
    def kind(self) -> str:
        """Name of the model class; ``BiRQModel`` for BiRQ files, which name the stock class."""
        return "BiRQModel" if "birq" in self.config else str(self.config.get("target")).rpartition(".")[2]


def read_source(path: Path) -> Source:
    """Reads a pretrained file after comparing its checksums.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is of another kind or damaged, or the encoder of the model is not one of NeMo's Conformers.
    """
    if path.suffix != ".ckpt":
        return Source(path, read_source_config(path), unwrapped(read_weights(path)), _label_tensors(path))
    _check_exists(path)
    content = read_checkpoint(path)
    weights = unwrapped(content["state_dict"])
    return Source(path, _checkpoint_config(content, path), weights, content.get("birq_label_tensors"))


def unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a model with the names of an encoder that does not mask after its subsampling."""
    return {
        name.replace(WRAPPED, "encoder.pre_encode."): tensor
        for name, tensor in weights.items()
        if not name.startswith(MASKING)
    }


def read_source_config(path: Path) -> DictConfig:
    """Reads the configuration of the model in a pretrained file, without its tensors.

    Raises:
        FileNotFoundError, ValueError: as ``read_source``.
    """
    if path.suffix == ".ckpt":
        _check_exists(path)
        return _checkpoint_config(peek_checkpoint(path), path)
    config = read_config(path)
    _check_parts(config, path)
    return config


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give the .nemo or a .ckpt of a training")


def _checkpoint_config(content: dict[str, Any], path: Path) -> DictConfig:
    config = (content.get(ModelPT.CHECKPOINT_HYPER_PARAMS_KEY) or {}).get("cfg")
    if not isinstance(config, DictConfig) or "state_dict" not in content:
        raise ValueError(f"{path} holds no NeMo model: give a .ckpt or the .nemo of a NeMo training")
    refuse_resolvers(config, str(path))
    _check_parts(config, path)
    return config


def _check_parts(config: DictConfig, path: Path) -> None:
    encoder = config.get("encoder") or {}
    if "preprocessor" not in config or not str(encoder.get("_target_")).endswith(".ConformerEncoder"):
        raise ValueError(
            f"{path} is a {config.get('target')} with the encoder {encoder.get('_target_')}: a training can only start "
            "from a model that has a preprocessor and a ConformerEncoder (also FastConformer)"
        )


def _label_tensors(path: Path) -> dict[str, Tensor] | None:
    with tarfile.open(path.expanduser()) as archive:
        found = [member for member in archive if member.name.endswith(LABEL_TENSORS)]
        if not found:
            return None
        try:
            return load_torch_file(archive.extractfile(found[0]))
        except ValueError as error:
            raise ValueError(f"{path}: its {LABEL_TENSORS} cannot be read ({error}): get the file again") from error
