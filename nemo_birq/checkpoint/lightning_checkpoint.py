"""Lightning checkpoints: atomic writing, and reading that runs no code of a malicious file."""

import typing
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from fsspec.utils import get_protocol
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem
from nemo.collections.asr.parts.context_biasing.boosting_graph_batched import BoostingTreeModelConfig, PhraseItem
from nemo.collections.asr.parts.submodules.ctc_beam_decoding import (
    BeamCTCInferConfig,
    FlashlightConfig,
    PyCTCDecodeConfig,
    WfstCTCInferConfig,
)
from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecodingConfig
from nemo.collections.asr.parts.submodules.ctc_greedy_decoding import GreedyCTCInferConfig
from nemo.collections.asr.parts.utils.asr_confidence_utils import ConfidenceConfig, ConfidenceMethodConfig
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode, BooleanNode, FloatNode, IntegerNode, StringNode

from nemo_birq.utils.files import complete_file
from nemo_birq.utils.torch_files import check_torch_file, check_zip, load_torch_file

__all__ = [
    "SAFE_GLOBALS", "CompleteCheckpointIO", "check_checkpoint", "check_zip", "peek_checkpoint",
    "read_checkpoint",
    "writing",
]  # fmt: skip

SAFE_GLOBALS = [
    typing.Any, typing.List, defaultdict, dict, list, int, float, bool, str, ContainerMetadata, Metadata, DictConfig,  # noqa: UP006
    ListConfig, AnyNode, BooleanNode, FloatNode, IntegerNode, StringNode,
    # Decoding settings of a CTC recognizer:
    CTCDecodingConfig, GreedyCTCInferConfig, BeamCTCInferConfig, PyCTCDecodeConfig, FlashlightConfig, WfstCTCInferConfig,
    BoostingTreeModelConfig, PhraseItem, ConfidenceConfig, ConfidenceMethodConfig,
]  # fmt: skip
"""Classes other than tensors that NeMo writes to a checkpoint: those of its configuration, which hold plain values."""
torch.serialization.add_safe_globals(SAFE_GLOBALS)  # NeMo's EMA calls torch.load itself

AVERAGE = "-EMA.ckpt"
"""End of the file name of the checkpoint with moving averages (``exp_manager.ema.enable``)."""


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Returns the content of a ``.ckpt`` after comparing its checksums; reads it twice, the second time from memory.

    Args:
        path: path of a file, or a URL of fsspec.
        map_location: as for ``torch.load``.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is not a checkpoint, is damaged, or holds objects other than tensors and configurations, or
            weights that are not finite.
    """
    with _readable(path), get_filesystem(path).open(str(path), "rb") as file:
        content = load_torch_file(file, map_location)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
        for part in ("state_dict", "optimizer_states"):  # no run saves such values, see monitoring.finite_check
            if name := find_not_finite(content.get(part), part):
                raise ValueError(f"{name} holds values that are not finite")
    return content


def find_not_finite(value: Any, name: str) -> str | None:
    """Returns the name of the first tensor with NaN or infinity; None if there is none."""
    if isinstance(value, torch.Tensor):
        return name if value.is_floating_point() and not bool(torch.isfinite(value).all()) else None
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return next(filter(None, (find_not_finite(one, f"{name}.{key}") for key, one in inner)), None)


def check_checkpoint(path: str | Path | IO[bytes]) -> None:
    """Checks a ``.ckpt``, given by path or open, that a library will read; reads it once.

    Raises:
        OSError, ValueError: as ``read_checkpoint``.
    """
    with _readable(path):
        if isinstance(path, str | Path):
            with get_filesystem(path).open(str(path), "rb") as file:
                check_torch_file(file)
        else:
            check_torch_file(path)
            path.seek(0)


def peek_checkpoint(path: str | Path) -> dict[str, Any]:
    """Returns the content of a local ``.ckpt`` for reading its settings; tensors stay in the file until they are used.

    Runs no code of the file. The checksums are compared only if reading fails, to find the reason.

    Raises:
        OSError, ValueError: as ``read_checkpoint``.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file raises errors of nearly every type
        check_checkpoint(path)
        with _readable(path):
            raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from error


class CompleteCheckpointIO(TorchCheckpointIO):
    """Trainer plugin that writes a local checkpoint under a temporary name and renames it, and that checks files on reading.

    Lightning writes to ``TMPDIR``, from where a move to another file system can be interrupted, and its reading runs any
    code in a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint atomically; at a URL, as Lightning does.

        Raises:
            OSError: the file cannot be written, for example because the disk is full. An older file is unchanged.
        """
        if get_protocol(str(path)) != "file" or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        for state in checkpoint.get("optimizer_states", ()):
            if "ema" in state:  # NeMo cannot swap restored averages that are parameters
                state["ema"] = [average.detach() for average in state["ema"]]
        with writing(Path(path)), complete_file(Path(path)) as part, open(part, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, map_location: Any = lambda storage, location: storage) -> dict[str, Any]:
        """Returns the content of a checkpoint; also checks the file with moving averages beside it, which NeMo reads.

        Raises:
            OSError, ValueError: as ``read_checkpoint``.
        """
        if not get_filesystem(path).exists(str(path)):
            raise FileNotFoundError(f"checkpoint {path} does not exist: give a .ckpt of the run")
        average = str(path).replace(".ckpt", AVERAGE)  # NeMo's naming
        if average != str(path) and not str(path).endswith(AVERAGE) and get_filesystem(average).exists(average):
            check_checkpoint(average)
        return read_checkpoint(path, map_location)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Adds the file name and a remedy to an error of writing in the block, such as a full disk.

    Raises:
        OSError: replaces an OSError, or the RuntimeError to which ``torch.save`` converts it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # not from PyTorch's writer
            raise
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause if isinstance(cause, OSError) else "PyTorch could not write all of it: the disk may be full"
        raise OSError(
            f"{path} cannot be written ({reason}). Files that were complete before are unchanged. Make room on the file "
            f"system of {path.parent}, or choose another folder, and run the same command again"
        ) from error


@contextmanager
def _readable(path: str | Path | IO[bytes]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"model {path} cannot be read as a checkpoint ({error}). Use another checkpoint of the run, or a copy"
        ) from error
