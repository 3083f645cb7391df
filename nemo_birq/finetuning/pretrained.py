"""Which file a recognizer begins with: ``init_from_nemo_model``, in the forms that NeMo knows."""

from nemo.collections.asr.models import ssl_models
from omegaconf import DictConfig, OmegaConf

from nemo_birq.checkpoint.nemo_archive import read_config

ENCODER_PARTS = ("preprocessor.", "encoder.")
"""Names of the tensors that are taken over begin with these."""
REMEDY = "name the .nemo that pretraining ended with: init_from_nemo_model=nemo_experiments/<name>/checkpoints/<name>.nemo"


def pretrained_path(cfg: DictConfig) -> str:
    """Returns the file that ``init_from_nemo_model`` names: as a string, or as ``{any_name: {path, include, exclude}}``.

    Raises:
        ValueError: nothing is named, or several files, or something else than the whole encoder is to be taken.
    """
    if OmegaConf.is_missing(cfg, "init_from_nemo_model") or not cfg.init_from_nemo_model:
        raise ValueError(f"init_from_nemo_model is not set: {REMEDY}")
    node = cfg.init_from_nemo_model
    if isinstance(node, str):
        return node
    entries = list(node.values()) if isinstance(node, DictConfig) else []
    if len(entries) != 1 or not isinstance(entries[0], DictConfig) or not entries[0].get("path"):
        raise ValueError(
            f"init_from_nemo_model={node}: give a path, or one entry with a path, such as "
            "'+init_from_nemo_model.ssl.path=x.nemo' '+init_from_nemo_model.ssl.include=[encoder]'"
        )
    include, exclude = set(entries[0].get("include", ["encoder"])), entries[0].get("exclude", [])
    if exclude or "encoder" not in include or include - {"encoder", "preprocessor"}:
        raise ValueError(
            f"init_from_nemo_model: include={sorted(include)}, exclude={list(exclude)}: preprocessor and encoder are taken "
            "over, whole, and nothing else; give include=[encoder] and no exclude, or use NeMo's own scripts"
        )
    return entries[0].path


def read_pretrained_config(path: str) -> DictConfig:
    """Reads the configuration of a self-supervised model, BiRQ's or NeMo's own.

    Raises:
        FileNotFoundError, ValueError: as ``nemo_archive.check_nemo``, or a model of another kind.
    """
    config = read_config(path)
    kind = config.target.rpartition(".")[2]
    if not hasattr(ssl_models, kind):
        raise ValueError(
            f"{path} is a {kind}, no self-supervised model: {REMEDY} (recognizers are trained further by NeMo's own scripts)"
        )
    missing = [node for node in ("preprocessor", "encoder") if node not in config]
    if missing:
        raise ValueError(f"{path}, a {kind}, has no {' and no '.join(missing)}: {REMEDY}")
    return config
