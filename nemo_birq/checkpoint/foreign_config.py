"""Checks configurations that come out of files: reading one must not put anything of this machine into a model or its card.

OmegaConf computes ``${oc.env:HOME}`` wherever the value is read: by attribute, by ``resolve``, and while NeMo builds the
model. A file of another author could collect environment variables in this way, which an export would then publish. NeMo
resolves a configuration before it writes it, so that its files and ours need no resolver.
"""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_INNERMOST = re.compile(r"\$\{(?:[^${}:]*|\s*(?:multiply|sum)\s*:[^${}]*)\}")
"""An interpolation of a key, or one of NeMo's two resolvers that compute with numbers, without another inside."""
_REMEDY = "NeMo and BiRQ write no such value. Do not use this file, or get it again from its author"


def refuse_resolvers(config: Any, path: str) -> None:
    """Refuses a configuration that reads anything besides its own keys.

    Interpolations of keys, such as ``${model.preprocessor.features}``, and NeMo's ``multiply`` and ``sum`` are allowed.

    Args:
        config: read from a file and not resolved; anything that is not an OmegaConf container is left to the caller.
        path: of the file, for the message.

    Raises:
        ValueError: names the first key whose value holds a resolver, also after its interpolations are resolved, or the
            interpolation that cannot be resolved.
    """
    if not isinstance(config, Container):
        return
    whole = config._get_root()  # an interpolation in a node can reach all keys of the file
    for key, value in _strings(OmegaConf.to_container(whole)):
        if "${" in _without_allowed(value):
            raise ValueError(f"{path}: the value of {key}, {value!r}, reads something besides the file. {_REMEDY}")
    try:
        resolved = OmegaConf.to_container(whole, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: its configuration cannot be resolved ({reason}). {_REMEDY}") from error
    for key, value in _strings(resolved):
        if "${" in value:  # put together from pieces; the next reader would resolve it
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
