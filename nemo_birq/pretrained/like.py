"""The key ``like``: a configuration gets its preprocessor, encoder and, for a BiRQ model, labels from a pretrained file."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_birq.pretrained.architecture import plain, take_architecture
from nemo_birq.pretrained.named import download, initial_file
from nemo_birq.pretrained.source import read_source_config

LABELS = ("quantizer", "anchor", "labels")
"""Groups of ``model.birq`` that define the labels."""
WRITTEN = ("checksum", "tensors")
"""Keys of the first group that belong to one file."""


def take_configuration(cfg: DictConfig) -> None:
    """Fills a configuration for pretraining from the file that ``like`` names; without ``like``, it is not changed.

    Preprocessor, encoder and sample rate come from the file, except for keys such as dropout (``architecture.FREE_KEYS``).
    The labels and heads of a BiRQ model also come from the file, unless ``new_labels`` is set or the user has selected a
    preset (``objective``). Keys of ``model.birq`` on the command line are kept.

    Args:
        cfg: the whole configuration; changed.

    Raises:
        FileNotFoundError, ValueError: as ``source.read_source_config``; also if the command line sets a key of the encoder
            to another value than the file.
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
    """Returns the file of ``like``, which is a path, a model of a hub, or ``true`` for the file from which training starts.

    Raises:
        ValueError: ``like`` is true, but training starts without a file.
    """
    if cfg.like is not True:
        path = Path(str(cfg.like))
        return path if path.suffix in (".nemo", ".ckpt") else download(str(cfg.like), "like")
    found = initial_file(cfg)
    if found is None:
        raise ValueError("like=true needs the file from which training starts: set init_from_nemo_model=pretrained.nemo")
    return found


def _chosen() -> set[str]:
    """Returns the keys and groups that are set on the command line."""
    if not HydraConfig.initialized():
        return set()
    parser = OverridesParser.create()
    return {parser.parse_override(override).key_or_group for override in HydraConfig.get().overrides.task}
