"""Reads Lightning checkpoints without running code that a hostile file could hold."""

import typing
from collections import defaultdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

SAFE_GLOBALS = [
    typing.Any, defaultdict, dict, list, int, ContainerMetadata, Metadata, AnyNode, DictConfig, ListConfig,
]  # fmt: skip
"""Classes besides tensors that NeMo writes to a checkpoint: those of its configuration."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Returns the content of a ``.ckpt`` with its tensors on the CPU.

    Raises:
        ValueError: the file is no checkpoint, is truncated, or holds objects other than tensors and configurations.
    """
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is truncated"
        raise ValueError(f"model {path} cannot be read as a checkpoint ({type(error).__name__}: {reason})") from error
    if not isinstance(content, dict):
        raise ValueError(f"model {path} cannot be read as a checkpoint: it holds a {type(content).__name__}")
    return content
