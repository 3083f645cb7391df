"""The description of a build's input beside its shards, which distinguishes inputs without naming folders."""

import hashlib
import os
import re
from typing import Any

from nemo_birq.utils.urls import is_url

_DIGEST = re.compile(r" \(path [0-9a-f]{12}\)$")


def shareable(source: dict[str, Any]) -> dict[str, Any]:
    """Returns a recipe's description with a name and a digest instead of each absolute path in ``input`` and ``root``."""
    found = dict(source)
    found["input"] = [_named(path) for path in source["input"]]
    if source.get("root"):
        found["root"] = _named(source["root"])
    return found


def of_any_machine(source: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a shareable description that does not depend on the location of the input."""
    names = [_DIGEST.sub("", name) for name in source["input"]]
    return {key: value for key, value in source.items() if key != "root"} | {"input": names}


def _named(path: str) -> str:
    if not os.path.isabs(path) and not is_url(path):
        return path  # already a name
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:12]
    return f"{path.rstrip('/').rpartition('/')[2]} (path {digest})"
