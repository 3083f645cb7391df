"""Conversion of configurations to plain dictionaries, and checks of the classes that they name."""

import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_birq.config import refuse_unknown_keys
from nemo_birq.utils.settings import MISSING, refuse, shown

HYDRA_KEYS = ("_target_", "_convert_", "_recursive_", "_partial_", "_args_")
ABSENT = object()
"""Value of a key that does not exist."""
PATH = "the import path of a class"


def resolved(cfg: DictConfig, groups: Mapping[str, tuple[object, ...]], may_be_missing: Iterable[str]) -> dict[str, Any]:
    """Returns a configuration as a dictionary, with its interpolations replaced by their values.

    Args:
        cfg: the whole configuration.
        groups: full keys whose values must be groups of keys, outer ones before inner ones, each with the other values that
            it may have: ``None``, or ``ABSENT`` if it may be left out.
        may_be_missing: keys that may be ``???``.

    Raises:
        ValueError: a required group of keys is missing or has another type, a value is not set, or an interpolation fails.
    """
    written = OmegaConf.to_container(cfg, resolve=False)
    for key, others in groups.items():
        node = _select(written, key)
        if not isinstance(node, dict) and node not in others:
            value = None if node is ABSENT else node
            refuse(key, value, "a group of keys" + (" or null" if None in others else ""))
    for key in _missing(written):
        if key not in may_be_missing:
            raise ValueError(f"{key} is not set: add {key}=VALUE to the command")
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        key, reason = error.full_key or "", str(error).splitlines()[0]
        raise ValueError(f"{key}={shown(_select(written, key))} cannot be resolved: {reason}. Correct its value") from error


def _select(values: dict[str, Any], key: str) -> object:
    found: object = values
    for part in key.split("."):
        found = found.get(part, ABSENT) if isinstance(found, dict) else ABSENT
    return found


def _missing(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _missing(value, f"{prefix}{key}.")
        elif value == MISSING:
            yield f"{prefix}{key}"


def find_class(key: str, path: object) -> type | None:
    """Imports a class of NeMo.

    Args:
        key: key that holds the path.
        path: import path, such as ``nemo.collections.asr.modules.ConformerEncoder``.

    Returns:
        The class; None if it is not NeMo's, because a check must not import other code.

    Raises:
        ValueError: the class does not exist.
    """
    if not isinstance(path, str) or "." not in path:
        refuse(key, path, f"{PATH}, such as nemo.collections.asr.modules.ConformerEncoder")
    if not path.startswith("nemo."):
        return None
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{key}={path} is not allowed: it must be {PATH} ({error})") from error
    if not isinstance(found, type):
        refuse(key, path, PATH)
    return found


def check_class(node: dict[str, Any], where: str) -> None:
    """Checks that ``_target_`` of a node is a class, and that the node's other keys are its arguments.

    Raises:
        ValueError: the class does not exist, or a key is not one of its arguments.
    """
    found = find_class(f"{where}._target_", node.get("_target_"))
    parameters = {} if found is None else inspect.signature(found).parameters
    if parameters and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        refuse_unknown_keys(node, (*parameters, *HYDRA_KEYS), where)
