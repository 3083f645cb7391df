"""The pretrained file from which a recognizer starts: ``init_from_nemo_model``."""

from omegaconf import DictConfig, OmegaConf

from nemo_birq.pretrained.named import entry

REMEDY = "give the .nemo of a pretraining: init_from_nemo_model=nemo_experiments/<name>/checkpoints/<name>.nemo"


def pretrained_path(cfg: DictConfig) -> str:
    """Returns the file that ``init_from_nemo_model`` names, in one of NeMo's forms.

    Raises:
        ValueError: no file is named; otherwise as ``pretrained.named.entry``.
    """
    if OmegaConf.is_missing(cfg, "init_from_nemo_model") or not cfg.init_from_nemo_model:
        raise ValueError(f"init_from_nemo_model is not set: {REMEDY}")
    return entry(cfg.init_from_nemo_model, "init_from_nemo_model")
