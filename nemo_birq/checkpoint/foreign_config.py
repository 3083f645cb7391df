"""Checks of configurations from files, which must not copy data of this machine into a model or its card.

OmegaConf evaluates ``${oc.env:HOME}`` whenever the value is read: by attribute, by ``resolve``, and while NeMo builds the
model. A file of another author could collect environment variables in this way, and an export would publish them. NeMo
resolves a configuration before it writes it, so its files and ours need no resolver.
"""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_INNERMOST = re.compile(r"\$\{(?:[^${}:]*|\s*(?:multiply|sum)\s*:[^${}]*)\}")
"""Pattern of an interpolation of a key, or of one of NeMo's two arithmetic resolvers, without a nested one."""
_REMEDY = "NeMo and BiRQ write no such value. Do not use this file, or get it again from its author"


def refuse_resolvers(config: Any, path: str) -> None:
    """Refuses a configuration that reads anything except its own keys.

    Interpolations of keys, such as ``${model.preprocessor.features}``, and NeMo's ``multiply`` and ``sum`` are allowed.

    Args:
        config: unresolved configuration from a file; other objects than OmegaConf containers are not checked.
        path: path of the file, for the message.

    Raises:
        ValueError: a value holds a resolver, also after its interpolations are resolved, or an interpolation cannot be
            resolved; the message names the key.
    """
    if not isinstance(config, Container):
        return
    whole = config._get_root()  # an interpolation in a node can refer to all keys of the file
    for key, value in _strings(OmegaConf.to_container(whole)):
        if "${" in _without_allowed(value):
            raise ValueError(f"{path}: the value of {key}, {value!r}, reads something outside of the file. {_REMEDY}")
    try:
        resolved = OmegaConf.to_container(whole, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: its configuration cannot be resolved ({reason}). {_REMEDY}") from error
    for key, value in _strings(resolved):
        if "${" in value:  # assembled from parts; the next reader would resolve it
            raise ValueError(f"{path}: the value of {key} becomes {value!r}, another interpolation. {_REMEDY}")


def _without_allowed(value: str) -> str:
    before = None
    while value != before:
        before, value = value, _INNERMOST.sub("\0", value)
    return value


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields the strings of a configuration with their keys, such as ``train_ds.manifest_filepath`` and ``labels[0]``."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _strings(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _strings(value, f"{key}[{index}]")
