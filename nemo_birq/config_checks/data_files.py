"""The keys that name the data of a dataset node, of which some may be unset (``???``)."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

MANIFESTS, SHARDS, INPUT_CFG = "manifest_filepath", "tarred_audio_filepaths", "input_cfg"


def given(config: DictConfig, key: str) -> Any:
    """Returns the value of a key; None if it is null, empty or unset."""
    return None if OmegaConf.is_missing(config, key) else config.get(key) or None


def find_unset(config: DictConfig) -> list[str]:
    """Finds the required keys that are unset: either ``input_cfg`` or ``manifest_filepath`` is required."""
    unset = [key for key in config if OmegaConf.is_missing(config, key)]
    if given(config, INPUT_CFG):
        return [key for key in unset if key not in (MANIFESTS, SHARDS)]
    return [key for key in unset if key != INPUT_CFG or not given(config, MANIFESTS)]


def without_unset(config: DictConfig) -> dict[str, Any]:
    """Returns a node as a dictionary, without the keys that are unset."""
    kept = [key for key in config if not OmegaConf.is_missing(config, key)]
    return OmegaConf.to_container(OmegaConf.masked_copy(config, kept), resolve=True)
