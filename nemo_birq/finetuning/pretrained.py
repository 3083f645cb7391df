"""The pretrained file from which a recognizer starts: ``init_from_nemo_model``, a self-supervised model."""

from nemo.collections.asr.models import ssl_models
from omegaconf import DictConfig, OmegaConf

from nemo_birq.checkpoint.nemo_archive import read_config
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


def read_pretrained_config(path: str) -> DictConfig:
    """Reads the configuration of a self-supervised model of BiRQ or NeMo.

    Raises:
        FileNotFoundError, ValueError: as ``nemo_archive.check_nemo``; also if the model is of another kind.
    """
    config = read_config(path)
    kind = config.target.rpartition(".")[2]
    if not hasattr(ssl_models, kind):
        raise ValueError(f"{path} is a {kind}, not a self-supervised model: {REMEDY} (NeMo's own scripts train recognizers)")
    missing = [node for node in ("preprocessor", "encoder") if node not in config]
    if missing:
        raise ValueError(f"{path}, a {kind}, has no {' and no '.join(missing)}: {REMEDY}")
    return config
