"""Makes the model's configuration one that the stock NeMo class understands too.

NeMo refuses a ``.nemo`` whose ``target`` lies outside its own packages. Ours therefore names the stock parent class and
gives it all it reads, so that any NeMo installation opens the file, strictly and with every weight, without this package.
"""

from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from omegaconf import DictConfig, OmegaConf, open_dict

STOCK_TARGET = f"{SpeechEncDecSelfSupervisedModel.__module__}.{SpeechEncDecSelfSupervisedModel.__name__}"


def with_stock_nodes(cfg: DictConfig, separate_head: bool) -> DictConfig:
    """Adds what the stock class needs to build the same modules.

    ``decoder``, the prediction head of the configuration, becomes ``loss_list.anchor.decoder`` and, for separate heads,
    ``loss_list.enhanced.decoder`` as well: NeMo's place for self-supervised heads, whose names do not collide with those
    of a CTC or RNNT decoder when an encoder is taken over by ``init_from_nemo_model``.
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
        # The stock class insists on an augmentation; masking here is BiRQ's own.
        cfg.spec_augment = {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 0,
            "time_masks": 0,
        }
    return cfg


def refuse_bare_encoder(cfg: DictConfig) -> None:
    """Refuses the configuration of a file that cannot be trained.

    Raises:
        ValueError: the configuration is that of an encoder whose heads birq export has left out.
    """
    if "decoder" not in cfg and cfg.get("loss_list", True) == {}:
        raise ValueError(
            "this .nemo holds a bare encoder: birq export has left out the prediction heads and labels that "
            "BiRQModel needs. Open it with nemo.core.ModelPT.restore_from, or go on pretraining with the file it was made of"
        )
