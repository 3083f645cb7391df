"""What a ``.nemo`` must be before anything is taken from it.

NeMo opens a file first and finds out later: a truncated archive ends in an error of tarfile, a member that would be written
outside its folder is left out with a warning and is missed afterwards. Here the file is looked at, nothing is unpacked.
"""

import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError

import torch
from nemo.core import ModelPT
from nemo.utils.tar_utils import is_safe_tar_member
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from nemo_birq.checkpoint.foreign_config import refuse_resolvers

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"  # NeMo's names


def check_nemo(path: str | Path) -> None:
    """Reads the headers of the archive, not its weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no archive, a truncated one, one without configuration or weights, or with a member whose path leaves
            the folder that NeMo unpacks it to.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name the .nemo that a training run ended with")
    try:
        with tarfile.open(path) as archive:
            members = archive.getmembers()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} is no .nemo, or a truncated one ({error}; {path.stat().st_size} bytes): compare its size with the "
            "original and copy it again"
        ) from error
    folder = str(Path(tempfile.gettempdir()).resolve() / "nemo")  # only for the comparison of paths
    unsafe = [member.name for member in members if not is_safe_tar_member(member, folder)]
    if unsafe:
        raise ValueError(
            f"{path} has members that leave its folder, or are links: {', '.join(unsafe)}. NeMo writes no such file; do not "
            "use this one, get it again from where it was made"
        )
    names = {str(PurePosixPath(member.name)) for member in members}
    missing = [name for name in (CONFIG, WEIGHTS) if name not in names]
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(missing)}: it is no .nemo of a NeMo model, or a truncated one. It holds "
            f"{', '.join(sorted(names - {'.'})) or 'nothing'}"
        )


def read_config(path: str | Path) -> DictConfig:
    """The model's configuration in a ``.nemo``, with its ``target``; checked by ``check_nemo`` before.

    Raises:
        FileNotFoundError, ValueError: as ``check_nemo`` and ``refuse_resolvers``, and a configuration that is none.
    """
    check_nemo(path)
    try:
        config = ModelPT.restore_from(str(path), return_config=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"{path}: its {CONFIG} cannot be read ({error}); get the file again") from error
    refuse_resolvers(config, str(path))
    if not isinstance(config, DictConfig) or "target" not in config:
        raise ValueError(f"{path}: its {CONFIG} names no class (`target`): NeMo did not write it")
    return config


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The model's state dict in a ``.nemo``, on the CPU, without building the model.

    Raises:
        FileNotFoundError, ValueError: as ``check_nemo``, and weights that cannot be read.
    """
    check_nemo(path)
    with tarfile.open(path) as archive:
        member = next(m for m in archive.getmembers() if str(PurePosixPath(m.name)) == WEIGHTS)
        try:
            return torch.load(archive.extractfile(member), map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: its {WEIGHTS} cannot be read ({error}); get the file again") from error
