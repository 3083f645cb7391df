"""Several validation sets in one ``validation_ds``, each with its own loader."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from nemo.utils.model_utils import parse_dataset_as_name
from omegaconf import DictConfig, OmegaConf

from nemo_birq.config_checks.data_files import MANIFESTS, SHARDS, find_unset, given, without_unset

SETS = "ds_item"
"""NeMo's key for a list of validation sets, each with its own node."""


def separate_sets(config: DictConfig | dict) -> DictConfig:
    """Gives each validation set its own node, in the form from which NeMo sets up a loader for each.

    Sets are the entries of equally long lists of manifests and shards, or those of NeMo's ``ds_item``. A list of lists, as
    for buckets, is one set. NeMo itself separates lists of single files, but would give all shards to each manifest.

    Args:
        config: node ``validation_ds``.

    Raises:
        ValueError: ``name`` has another number of entries than there are sets.
    """
    config = OmegaConf.create(config)
    if find_unset(config):
        return config
    node = without_unset(config)
    items = node.pop(SETS, None)
    if not isinstance(items, list):
        manifests, tars = given(config, MANIFESTS), given(config, SHARDS)
        if not _are_paths(manifests) or not _are_paths(tars) or len(manifests) != len(tars):
            return OmegaConf.create(node | names_after_folders(config))
        names = node.pop("name", None) or [None] * len(manifests)
        if len(names) != len(manifests):
            raise ValueError(f"model.validation_ds.name names {len(names)} sets, {MANIFESTS} {len(manifests)}")
        items = [{MANIFESTS: m, SHARDS: t, "name": n} for m, t, n in zip(manifests, tars, names, strict=True)]
    separate = [node | dict(item) for item in items]
    for item, name in zip(separate, _prefixes(separate), strict=True):
        item["name"] = name
    return OmegaConf.create(node | {SETS: separate})


def names_after_folders(config: DictConfig) -> dict[str, str | list[str]]:
    """Returns the key ``name`` for sets of single files whose manifests NeMo cannot name; empty if it needs none.

    NeMo names a set after the file of its manifest, and refuses the names that ``birq make-shards --files`` and others
    write: ``manifest.json`` and ``dataset.json``. Such sets get the names of their folders.

    Args:
        config: node ``validation_ds`` of a pretraining or a fine-tuning.
    """
    manifests = given(config, MANIFESTS)
    paths = [manifests] if isinstance(manifests, str) else manifests
    if config.get("name") or config.get(SETS) or not _are_paths(paths):
        return {}
    if all(PurePosixPath(path).stem.replace("manifest", "").replace("dataset", "") for path in paths):
        return {}
    names = _prefixes([{MANIFESTS: path} for path in paths])
    return {"name": names[0] if isinstance(manifests, str) else names}


def _are_paths(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(path, str) for path in value)


def _prefixes(items: list[dict[str, Any]]) -> list[str]:
    """Returns a prefix for the metrics of each set: its ``name``, or the name of its folder."""
    names = [item.get("name") or _folder(str(item.get(MANIFESTS))) or "set" for item in items]
    unique = [f"{name}_{number}" if names.count(name) > 1 else name for number, name in enumerate(names)]
    return [parse_dataset_as_name(name) for name in unique]


def _folder(manifest: str) -> str:
    """Returns the name of the folder of a manifest, without the words that NeMo removes from names."""
    parts = [part for part in PurePosixPath(manifest).parts[:-1] if part not in ("/", "sharded_manifests")]
    return parts[-1].replace("manifest", "").replace("dataset", "") if parts else ""
