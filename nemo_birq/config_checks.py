"""Checks of a whole configuration, before any module is built."""

import inspect
from importlib.util import find_spec

from lightning.pytorch import Trainer
from nemo.utils import logging
from omegaconf import DictConfig

from nemo_birq.config import BiRQConfig, refuse_unknown_keys

ROOT_KEYS = (
    "name", "seed", "enhanced_start_step", "enhanced_ramp_steps", "model", "trainer", "exp_manager",
    "init_from_nemo_model", "init_from_pretrained_model", "init_from_ptl_ckpt", "resume_with_changed",
)  # fmt: skip
MODEL_KEYS = (
    "sample_rate", "train_ds", "validation_ds", "test_ds", "preprocessor", "encoder", "decoder", "birq", "card", "optim",
    "target", "nemo_version", "loss_list", "spec_augment", "pretraining",
)  # fmt: skip
"""Keys of a configuration in conf/, and those that NeMo and this package add to the configuration of a ``.nemo``."""


def check_run_keys(cfg: DictConfig, *others: str) -> None:
    """Checks the keys at the root of a run's configuration, in ``model`` and in ``trainer``.

    Args:
        cfg: the whole configuration.
        others: keys at the root that the command knows beside those of training.

    Raises:
        ValueError: an unknown key; the message names the nearest known one.
    """
    refuse_unknown_keys(cfg, (*ROOT_KEYS, *others), "")
    refuse_unknown_keys(cfg.model, MODEL_KEYS, "model")
    refuse_unknown_keys(cfg.trainer, list(inspect.signature(Trainer.__init__).parameters)[1:], "trainer")


def check_modules(cfg: DictConfig, birq: BiRQConfig) -> None:
    """Checks that the configuration's modules fit each other.

    Raises:
        ValueError: an encoder without a layer k of its width, or another head than quantizer and encoder need.
    """
    encoder, quantizer = cfg.encoder, birq.quantizer
    if encoder.get("reduction") or encoder.get("feat_out", -1) not in (-1, encoder.d_model):
        raise ValueError("model.encoder: reduction and feat_out are not supported, layer k must have the encoder's width")
    head = cfg.decoder
    if not str(head.get("_target_")).endswith(".MultiSoftmaxDecoder"):
        raise ValueError(f"model.decoder._target_={head.get('_target_')}: the prediction head must be a MultiSoftmaxDecoder")
    sizes = {"num_classes": quantizer.num_codes, "num_decoders": quantizer.num_books, "feat_in": encoder.d_model}
    for key, needed in sizes.items():
        if head.get(key, 1) != needed:
            raise ValueError(f"model.decoder.{key}={head.get(key)} does not fit: quantizer and encoder need {needed}")
    if cfg.preprocessor.get("normalize") != "per_feature":
        logging.warning(
            f"model.preprocessor.normalize={cfg.preprocessor.get('normalize')}: the anchor labels of features that are not "
            "normalized per feature over time collapse onto few codes. Use per_feature."
        )


def check_optimizer(name: str | None) -> None:
    """Refuses an optimizer that is not installed.

    Raises:
        ValueError: with the remedy.
    """
    if name == "fused_adam" and find_spec("apex") is None:
        raise ValueError(
            "model.optim.name=fused_adam needs NVIDIA Apex, which is not installed. Build it from its source (see "
            "README, 'Apex'; the package named apex on the package index is another project), or use "
            "model.optim.name=adamw: PyTorch's own."
        )
