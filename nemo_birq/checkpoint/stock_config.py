"""Additions to the model configuration for the stock NeMo class.

NeMo refuses a ``.nemo`` whose ``target`` is outside of its own packages. Our files therefore name the stock parent class and
have all keys that it reads, so that any NeMo installation loads the file strictly, with every weight, without this package.
"""

from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from omegaconf import DictConfig, OmegaConf, open_dict

STOCK_TARGET = f"{SpeechEncDecSelfSupervisedModel.__module__}.{SpeechEncDecSelfSupervisedModel.__name__}"


def with_stock_nodes(cfg: DictConfig, separate_head: bool) -> DictConfig:
    """Adds the nodes with which the stock class builds the same modules.

    ``decoder``, the prediction head of the configuration, becomes ``loss_list.anchor.decoder`` and, for separate heads,
    ``loss_list.enhanced.decoder`` as well. This is NeMo's place for self-supervised heads. Their names do not collide with
    those of a CTC or RNNT decoder when ``init_from_nemo_model`` copies an encoder.
    """
    subsampling = cfg.encoder.subsampling_factor
    head = OmegaConf.to_container(cfg.decoder, resolve=True)
    loss = {
        "_target_": "nemo.collections.asr.losses.ssl_losses.mlm.MultiMLMLoss",
        "combine_time_steps": subsampling,
        "num_decoders": head.get("num_decoders", 1),
    }
    tasks = ("anchor", "enhanced") if separate_head else ("anchor",)
    with open_dict(cfg):
        cfg.target = STOCK_TARGET
        cfg.loss_list = {task: {"decoder": head, "loss": loss} for task in tasks}
        # The stock class requires an augmentation, although BiRQ does its own masking.
        cfg.spec_augment = {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 0,
            "time_masks": 0,
        }
    return cfg


def refuse_bare_encoder(cfg: DictConfig) -> None:
    """Refuses the configuration of a bare encoder.

    Raises:
        ValueError: ``birq export`` has removed the heads and labels.
    """
    if "decoder" not in cfg and cfg.get("loss_list", True) == {}:
        raise ValueError(
            "this .nemo holds a bare encoder: birq export has removed the prediction heads and labels that "
            "BiRQModel needs. Open it with nemo.core.ModelPT.restore_from, or continue pretraining with the original file"
        )
