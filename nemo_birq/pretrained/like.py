"""``like``: a configuration takes its preprocessor and encoder, and the labels of a BiRQ model, from a pretrained file."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_birq.pretrained.architecture import plain, take_architecture
from nemo_birq.pretrained.named import download, initial_file
from nemo_birq.pretrained.source import read_source_config

LABELS = ("quantizer", "anchor", "labels")
"""Groups of ``model.birq`` that say what the labels are."""
WRITTEN = ("checksum", "tensors")
"""Keys of the first group that belong to a file."""


def take_configuration(cfg: DictConfig) -> None:
    """Fills a configuration for pretraining from the file that ``like`` names; without ``like`` nothing happens.

    Preprocessor, encoder and sample rate are those of the file, except for dropout and the like
    (``architecture.FREE_KEYS``). So are the labels of a BiRQ model, and its heads, unless ``new_labels`` is set or the user
    has chosen a preset (``objective``). Single keys of ``model.birq`` on the command line stay.

    Args:
        cfg: the whole configuration; changed.

    Raises:
        FileNotFoundError, ValueError: as ``source.read_source_config``, or the command line sets a key of the encoder to
            another value than the file has.
    """
    if not cfg.get("like"):
        return
    path = _file(cfg)
    source = read_source_config(path)
    chosen = _chosen()
    take_architecture(cfg.model, source, str(path), chosen)
    if "birq" not in source or cfg.get("new_labels") or "objective" in chosen:
        return
    theirs = plain(source.birq)
    with open_dict(cfg):
        for group in LABELS:
            for key, value in theirs.get(group, {}).items():
                if key not in WRITTEN and f"model.birq.{group}.{key}" not in chosen:
                    OmegaConf.update(cfg, f"model.birq.{group}.{key}", value)
        if "model.birq.loss.head" not in chosen:
            OmegaConf.update(cfg, "model.birq.loss.head", theirs["loss"]["head"])


def _file(cfg: DictConfig) -> Path:
    """Returns the file of ``like``: a path, a model of a hub, or ``true`` for the one that training begins with.

    Raises:
        ValueError: ``true`` without such a file.
    """
    if cfg.like is not True:
        path = Path(str(cfg.like))
        return path if path.suffix in (".nemo", ".ckpt") else download(str(cfg.like), "like")
    found = initial_file(cfg)
    if found is None:
        raise ValueError("like=true needs the file that training begins with: set init_from_nemo_model=pretrained.nemo")
    return found


def _chosen() -> set[str]:
    """Returns the keys and groups that are set on the command line of Hydra."""
    if not HydraConfig.initialized():
        return set()
    parser = OverridesParser.create()
    return {parser.parse_override(override).key_or_group for override in HydraConfig.get().overrides.task}
