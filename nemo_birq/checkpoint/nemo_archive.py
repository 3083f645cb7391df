"""Checks of a ``.nemo`` before its content is used, and atomic writing of it.

NeMo opens files without checks: a truncated archive ends in an error of tarfile, a member outside of the folder is skipped
with a warning and is missing later, and a flipped bit changes a weight. This module checks a file before unpacking it: the
headers of the archive, which have their own checksums; the tensors, by the checksums of PyTorch; the other members, by a
list in the files that this package writes.
"""

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path, PurePosixPath
from typing import IO

from hydra.errors import HydraException
from nemo.core import ModelPT
from nemo.core.classes.common import ALLOWED_TARGET_PREFIXES, UnsafeTargetError
from nemo.utils import logging
from nemo.utils.get_rank import is_global_rank_zero
from nemo.utils.tar_utils import is_safe_tar_member
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from nemo_birq.checkpoint.foreign_config import refuse_resolvers
from nemo_birq.checkpoint.lightning_checkpoint import find_not_finite, writing
from nemo_birq.checkpoint.tar_owner import forget_owner
from nemo_birq.utils.files import PART, complete_file
from nemo_birq.utils.torch_files import check_torch_file, load_torch_file

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"  # file names of NeMo
CHECKSUMS = "birq_checksums.json"
"""Member with the SHA-256 of each member that is not a file of ``torch.save``."""
TORCH_SUFFIXES = (".ckpt", ".pt", ".pth")
BLOCK = tarfile.BLOCKSIZE


def check_nemo(path: str | Path) -> None:
    """Checks the archive and its members except tensors; does not read the weights of an uncompressed archive.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an archive, is truncated or damaged, has no configuration or weights, or has a member
            outside of the folder to which NeMo unpacks it.
    """
    _check_members(Path(path))


def verify_nemo(path: str | Path) -> None:
    """Checks the whole file: as ``check_nemo``, and the tensors, which it reads once (1 GB/s).

    Raises:
        FileNotFoundError, ValueError: as ``check_nemo``; also if tensors are damaged, or objects could run code.
    """
    members = _check_members(Path(path))
    with tarfile.open(path) as archive:
        for name in sorted(name for name in members if name.endswith(TORCH_SUFFIXES)):
            with _readable(path, name):
                check_torch_file(archive.extractfile(members[name]))


@contextmanager
def opening(path: str | Path) -> Iterator[None]:
    """Checks a ``.nemo`` with ``verify_nemo`` before NeMo opens it in the block, and names the file in NeMo's errors.

    Raises:
        FileNotFoundError, ValueError: as ``verify_nemo``; also for a class that NeMo does not allow, and for an error in the
            block, to which the file name is added.
        OSError: there is no space to unpack the file.
    """
    if "://" not in str(path) and not Path(path).is_dir():  # NeMo also opens object stores and unpacked files
        verify_nemo(path)
    try:
        yield
    except (UnsafeTargetError, ValueError, HydraException) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise ValueError(
            f"{path}: its weights do not fit its configuration ({misfit(error)}): get the file again"
        ) from error
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT, EFBIG):
            raise
        raise OSError(
            f"{path} cannot be unpacked to {tempfile.gettempdir()} ({error}): set TMPDIR to a folder with "
            f"{Path(path).stat().st_size / 1e9:.1f} GB of room"
        ) from error


def quiet_nemo() -> AbstractContextManager[None]:
    """Silences NeMo's log of training settings, and of the traceback of an error that it also raises."""
    return logging.temp_verbosity(logging.CRITICAL)


def misfit(error: RuntimeError) -> str:
    """Returns the first line of PyTorch's error about tensors that do not fit a model."""
    return next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))


def read_config(path: str | Path) -> DictConfig:
    """Returns the model configuration in a ``.nemo``, including ``target``, after ``check_nemo``.

    Raises:
        FileNotFoundError, ValueError: as ``check_nemo`` and ``refuse_resolvers``; also if the configuration cannot be read,
            or its class is not NeMo's.
    """
    check_nemo(path)
    try:
        config = ModelPT.restore_from(str(path), return_config=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"{path}: its {CONFIG} cannot be read ({error}): get the file again") from error
    refuse_resolvers(config, str(path))
    if not isinstance(config, DictConfig) or "target" not in config:
        raise ValueError(
            f"{path}: its {CONFIG} names no class (`target`), so NeMo did not write it. Use a .nemo that NeMo wrote"
        )
    if not str(config.target).startswith(tuple(ALLOWED_TARGET_PREFIXES)):
        raise ValueError(
            f"{path}: its {CONFIG} names the class {config.target}, which NeMo does not open: it is not NeMo's own"
        )
    return config


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Returns the state dict of the model in a ``.nemo``, on the CPU, without building the model.

    Raises:
        FileNotFoundError, ValueError: as ``check_nemo``; also if the weights are damaged, unreadable or not finite.
    """
    members = _check_members(Path(path))
    with tarfile.open(path) as archive, _readable(path, WEIGHTS):
        weights = load_torch_file(archive.extractfile(members[WEIGHTS]))
    check_finite(weights, path)
    return weights


def check_finite(weights: dict[str, Tensor], path: str | Path) -> None:
    """Checks that the weights of a file are finite; training saves no others, see ``monitoring.finite_check``.

    Raises:
        ValueError: a tensor holds NaN or infinity; the message names file and tensor.
    """
    if name := find_not_finite(weights, WEIGHTS):
        raise ValueError(f"{path}: {name} holds values that are not finite: get the file again")


@contextmanager
def complete_nemo(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path`` to rank 0, which writes the file; see ``utils.files.complete_file``.

    The temporary files of NeMo are also beside ``path``, in a folder whose name ends with ``.part``, because ``TMPDIR`` may
    be too small for them. The complete file gets its list of checksums, without the account that wrote it.

    Raises:
        OSError: the file cannot be written, for example because the disk is full; the message names it.
    """
    if not is_global_rank_zero():
        yield path
        return
    with writing(path), complete_file(path) as part:
        with _temporary_folder(path.with_name(f"{path.name}.files{PART}")):
            yield part
        _add_checksums(part)
        forget_owner(part)


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[None]:
    """Makes ``tempfile`` create its files in ``folder`` within the block, and removes the folder afterwards."""
    before = tempfile.tempdir
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    folder.mkdir()
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


def _add_checksums(path: Path) -> None:
    with tarfile.open(path) as archive:
        sums = {
            name: _sha256(archive.extractfile(member))
            for name, member in _by_name(archive.getmembers()).items()
            if member.isreg() and not name.endswith(TORCH_SUFFIXES)
        }
    content = json.dumps(sums, indent=1).encode()
    member = tarfile.TarInfo(f"./{CHECKSUMS}")
    member.size = len(content)
    with tarfile.open(path, "a") as archive:
        archive.addfile(member, io.BytesIO(content))


def _check_members(path: Path) -> dict[str, tarfile.TarInfo]:
    """Returns the files and folders of an archive by name, after the checks of ``check_nemo``."""
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give the .nemo that a training run wrote")
    try:
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            _check_end(archive.fileobj, members)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a .nemo, or is truncated or damaged ({error}; {path.stat().st_size} bytes): compare its size "
            "with the original and copy it again"
        ) from error
    folder = str(Path(tempfile.gettempdir()).resolve() / "nemo")  # only for the comparison of paths
    unsafe = [m.name for m in members if not is_safe_tar_member(m, folder) or not (m.isreg() or m.isdir())]
    if unsafe:
        raise ValueError(
            f"{path} has members outside of its folder, or links: {', '.join(unsafe)}. NeMo does not write such files: "
            "do not use this one, and get it again from its author"
        )
    named = _by_name(members)
    if len(named) < len(members):
        raise ValueError(f"{path} has several members of the same name. NeMo does not write such files; get it again")
    missing = [name for name in (CONFIG, WEIGHTS) if name not in named]
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(missing)}: it is not a .nemo of a NeMo model, or is truncated. It holds "
            f"{', '.join(sorted(named.keys() - {'.'})) or 'nothing'}. Get the file again"
        )
    if CHECKSUMS in named:
        _compare_checksums(path, named)
    return named


def _check_end(file: IO[bytes], members: list[tarfile.TarInfo]) -> None:
    """Checks that only zeros follow the last member, because tarfile takes a damaged header for the end of the archive."""
    end = 0
    if members:
        last = members[-1]
        end = last.offset_data + (-(-last.size // BLOCK) * BLOCK if last.isreg() else 0)
    file.seek(end)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise tarfile.ReadError("the archive has no end")
    while block:
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"no member begins at byte {end}")
        block = file.read(1 << 20)


def _compare_checksums(path: Path, members: dict[str, tarfile.TarInfo]) -> None:
    with tarfile.open(path) as archive:
        try:
            expected = json.loads(archive.extractfile(members[CHECKSUMS]).read())
            absent = sorted(expected.keys() - members.keys())
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: its {CHECKSUMS} cannot be read ({error}): get the file again") from error
        wrong = [
            name for name in expected if name in members and _sha256(archive.extractfile(members[name])) != expected[name]
        ]
    if absent or wrong:
        raise ValueError(
            f"{path} is damaged: {', '.join(absent + wrong)} {'is missing or differs' if absent else 'differs'} from its "
            f"{CHECKSUMS}. Get the file again; if it was changed on purpose, remove {CHECKSUMS} from the archive"
        )


def _by_name(members: list[tarfile.TarInfo]) -> dict[str, tarfile.TarInfo]:
    return {str(PurePosixPath(member.name)): member for member in members}


def _sha256(file: IO[bytes] | None) -> str:
    digest = hashlib.sha256()
    while file is not None and (block := file.read(1 << 20)):
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def _readable(path: str | Path, name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: its {name} cannot be read ({error}): get the file again") from error
