"""Public functions that open a pretrained model, or an encoder for feature extraction."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.modules.ssl_modules.masking import ConvFeatureMaksingWrapper
from nemo.core import ModelPT
from omegaconf import DictConfig
from torch import nn

from nemo_birq.checkpoint.foreign_config import refuse_resolvers
from nemo_birq.checkpoint.lightning_checkpoint import read_checkpoint
from nemo_birq.checkpoint.nemo_archive import check_finite, misfit, opening, quiet_nemo, read_config
from nemo_birq.model import BiRQModel


@dataclass(frozen=True)
class LoadedEncoder:
    """Preprocessor and encoder of any NeMo model with a Conformer encoder, in evaluation mode."""

    model: ModelPT
    """The whole model, with ``preprocessor`` and ``encoder``."""

    @property
    def step(self) -> int | None:
        """Optimizer steps after which a pretraining saved the ``.ckpt``; None for a ``.nemo``."""
        return getattr(self.model, "trained_steps", None)

    @property
    def preprocessor(self) -> nn.Module:
        """Module that computes log-mel features (B, F, T) of audio."""
        return self.model.preprocessor

    @property
    def encoder(self) -> ConformerEncoder:
        """Module that encodes features (B, F, T) to (B, D, T')."""
        return self.model.encoder

    @property
    def sample_rate(self) -> int:
        """Sample rate of the input in Hz."""
        return int(self.model.cfg.preprocessor.sample_rate)

    @property
    def depth(self) -> int:
        """Number of encoder layers, L."""
        return len(self.encoder.layers)


def load_model(path: str | Path) -> BiRQModel:
    """Opens a BiRQ ``.nemo`` or ``.ckpt`` in evaluation mode, on the GPU if there is one.

    Args:
        path: final ``.nemo`` of a training, or a ``.ckpt`` of a training that still runs.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is neither a ``.nemo`` nor a ``.ckpt``, is
            damaged, or holds a model without enhanced labels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"model {path} does not exist: give a .nemo or a .ckpt of a BiRQ training run")
    device = _device()
    if path.suffix == ".nemo":
        _check_is_birq(path, read_config(path))
        with quiet_nemo():
            model = BiRQModel.restore_from(str(path), map_location=device)
        check_finite(model.state_dict(), path)
    elif path.suffix == ".ckpt":
        content = read_checkpoint(path)
        config = content.get(ModelPT.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("cfg")
        refuse_resolvers(config, str(path))
        _check_is_birq(path, config)
        with quiet_nemo():
            model = _build(content, path)
    else:
        raise ValueError(f"model {path}: its name must end with .nemo or .ckpt")
    return model.eval().to(device)


def load_encoder(path: str | Path) -> LoadedEncoder:
    """Opens the encoder of a BiRQ ``.nemo`` or ``.ckpt``, or of the ``.nemo`` of a recognizer or another SSL model.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is of another kind, or its model has no
            Conformer encoder.
    """
    path = Path(path)
    if path.suffix != ".nemo" or not path.is_file():
        return LoadedEncoder(load_model(path))  # raises the error
    config = read_config(path)
    if "birq" in config:
        return LoadedEncoder(load_model(path))
    encoder = config.get("encoder") or {}
    if not str(encoder.get("_target_")).endswith(".ConformerEncoder") or encoder.get("reduction"):
        raise ValueError(
            f"model {path} is a {config.target} with the encoder {encoder.get('_target_')}: features can only be taken "
            "from a ConformerEncoder (also FastConformer) without `reduction`. Give a model with such an encoder"
        )
    with opening(path), quiet_nemo():
        model = ASRModel.restore_from(str(path), map_location=_device())
    check_finite(model.state_dict(), path)
    _remove_masking(model.encoder)
    return LoadedEncoder(model.eval().to(_device()))


def _remove_masking(encoder: ConformerEncoder) -> None:
    """Removes the wrapper with which NeMo masks after the subsampling (``mask_position: post_conv``), in training alone."""
    if isinstance(encoder.pre_encode, ConvFeatureMaksingWrapper):
        encoder.pre_encode = encoder.pre_encode.pre_encode


def _build(content: dict[str, Any], path: Path) -> BiRQModel:
    """Builds the model as ``load_from_checkpoint`` does, but without reading the file a third time.

    Raises:
        ValueError: the checkpoint lacks a part, or its weights do not fit its configuration.
    """
    BiRQModel._set_model_restore_state(is_being_restored=True)  # so that NeMo sets up no data loaders
    try:
        model = BiRQModel(content[ModelPT.CHECKPOINT_HYPER_PARAMS_KEY]["cfg"])
        model.on_load_checkpoint(content)
        model.load_state_dict(content["state_dict"])
    except KeyError as error:
        raise ValueError(
            f"model {path} cannot be read as a checkpoint: it lacks {error}. Use another checkpoint of the run"
        ) from error
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise ValueError(
            f"model {path} cannot be read as a checkpoint: its weights do not fit its configuration ({misfit(error)}). Use "
            "another checkpoint of the run"
        ) from error
    except (ValueError, HydraException) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"model {path}: no model can be built from its configuration ({said}). Use another checkpoint"
        ) from error
    finally:
        BiRQModel._set_model_restore_state(is_being_restored=False)
    return model


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_is_birq(path: Path, config: DictConfig | None) -> None:
    if config is None or "birq" not in config:
        target = (config or {}).get("target", "an unknown class")
        raise ValueError(
            f"model {path} is not a BiRQ model but {target}: its configuration has no node `birq`, so it has no "
            "projections, codebook or enhanced labels. Give a file that birq pretrain wrote, not a recognizer or a "
            "stock NeMo model"
        )
