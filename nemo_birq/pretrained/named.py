"""The file from which a training starts: NeMo's ``init_from_nemo_model`` and related keys, in the forms of NeMo."""

from pathlib import Path

from nemo.collections.asr.models import ASRModel, SpeechEncDecSelfSupervisedModel
from omegaconf import DictConfig, OmegaConf

INIT_KEYS = {"init_from_nemo_model": "path", "init_from_pretrained_model": "name", "init_from_ptl_ckpt": "path"}
"""Keys at the root of a configuration, each with the key of NeMo's dict form that names the file or the model."""
ENCODER_PARTS = ("preprocessor.", "encoder.")
"""Prefixes of the names of the copied tensors."""


def initial_file(cfg: DictConfig) -> Path | None:
    """Returns the ``.nemo`` or ``.ckpt`` that a configuration names; None if training starts from random weights.

    A model of the Hugging Face hub or of NGC is downloaded once, to NeMo's cache.

    Raises:
        ValueError: several keys name a file, the form is not one of NeMo's, or a model cannot be downloaded.
    """
    given = [key for key in INIT_KEYS if not OmegaConf.is_missing(cfg, key) and cfg.get(key)]
    if not given:
        return None
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are set, but training starts from one file: remove the others")
    named = entry(cfg[given[0]], given[0])
    return download(named, given[0]) if given[0] == "init_from_pretrained_model" else Path(named)


def entry(node: str | DictConfig, key: str) -> str:
    """Returns the file or model of a key of ``INIT_KEYS``: a string, or ``{any_name: {path, include, exclude}}``.

    Raises:
        ValueError: no file or several files are named, or ``include`` and ``exclude`` do not select the whole encoder.
    """
    if isinstance(node, str):
        return node
    inner = INIT_KEYS[key]
    entries = list(node.values()) if isinstance(node, DictConfig) else []
    if len(entries) != 1 or not isinstance(entries[0], DictConfig) or not entries[0].get(inner):
        raise ValueError(
            f"{key}={node}: give a {inner}, or one entry with a {inner}, such as "
            f"'+{key}.ssl.{inner}=x{'' if inner == 'name' else '.nemo'}' '+{key}.ssl.include=[encoder]'"
        )
    include, exclude = set(entries[0].get("include", ["encoder"])), entries[0].get("exclude", [])
    if exclude or "encoder" not in include or include - {"encoder", "preprocessor"}:
        raise ValueError(
            f"{key}: include={sorted(include)}, exclude={list(exclude)}: only the whole preprocessor and encoder "
            "can be loaded. Give include=[encoder] and no exclude, or use NeMo's own scripts"
        )
    return entries[0][inner]


def download(name: str, key: str) -> Path:
    """Returns the ``.nemo`` of a model of the Hugging Face hub, ``owner/name``, or of NGC, in NeMo's cache.

    Args:
        name: name of the model.
        key: key of the configuration that names it, for the message.

    Raises:
        ValueError: the model does not exist, there is no connection, or the repository has no ``.nemo``.
    """
    listed = {model.pretrained_model_name for model in SpeechEncDecSelfSupervisedModel.list_available_models() or []}
    owner = SpeechEncDecSelfSupervisedModel if name in listed else ASRModel
    try:
        path = Path(owner.from_pretrained(name, return_model_file=True))
    except Exception as error:  # the libraries of the hub and of NGC raise errors of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{key}={name} cannot be downloaded ({reason}). Check the name and the connection, or "
            "download the .nemo yourself and give its path"
        ) from error
    if path.is_dir():
        raise ValueError(
            f"{key}={name}: the repository has no {name.rpartition('/')[2]}.nemo. Download its .nemo "
            "yourself, and set init_from_nemo_model to the path"
        )
    return path
