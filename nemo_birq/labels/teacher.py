"""The frozen teacher: the first K layers of an earlier model, and k-means centroids of the outputs of layer K.

HuBERT (arXiv 2106.07447) writes such labels to files, one line for each utterance, and cuts them to the crops used in
training. Here the teacher labels each batch during training, unmasked and in evaluation mode. The labels are the same,
because nothing in them is random or learned, and no label files have to fit the audio. The cost is a pass through the first
K layers without gradient.

Shapes: B utterances, F mel bins, T feature frames, T' encoder frames, D width of the teacher, N frames, V clusters.
"""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from nemo.collections.asr.modules import ConformerEncoder
from nemo.utils import AppState
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nemo_birq.config import BiRQConfig
from nemo_birq.labels.quantizer import CHUNK_FRAMES, checksum
from nemo_birq.modules.frame_times import first_encoder_frame
from nemo_birq.modules.layer_pass import encode_to_layer
from nemo_birq.utils.files import complete_file
from nemo_birq.utils.torch_files import load_torch_file

KEY = "birq.relabelling.teacher"
PACKED = "nemo:"  # NeMo's prefix for files inside a .nemo
NOT_COMPARED = ("dither", "pad_to")  # dither is only added in training, and padding has no labels


@dataclass(frozen=True)
class TeacherFile:
    """Content of a teacher file: plain values, and tensors on the CPU. Opening the file runs no code."""

    layer: int
    """K, the layer whose outputs are clustered."""
    centroids: Tensor
    """(V, D) float32, the centroids."""
    preprocessor: dict[str, Any]
    encoder: dict[str, Any]
    """Configuration of a ``ConformerEncoder`` of K layers."""
    weights: dict[str, Tensor]
    """State dict of the encoder."""
    seed: int
    """Seed of k-means."""
    made_from: str
    """File name of the model."""
    checksum: str = ""
    """Checksum of everything that defines the labels; computed if not given."""

    def __post_init__(self) -> None:
        if not self.checksum:
            object.__setattr__(self, "checksum", self.found_checksum())

    def found_checksum(self) -> str:
        """Returns the SHA-256 (first 16 hex digits) of layer, configurations, weights and centroids."""
        settings = json.dumps([self.layer, self.preprocessor, self.encoder, sorted(self.weights)], sort_keys=True)
        tensors = checksum(*(self.weights[name] for name in sorted(self.weights)), self.centroids)
        return hashlib.sha256(f"{settings}{tensors}".encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Writes a file that ``read_teacher_file`` reads."""
        with complete_file(Path(path)) as part:
            torch.save({field.name: getattr(self, field.name) for field in fields(self)}, part)


def read_teacher_file(path: str | Path) -> TeacherFile:
    """Reads a teacher file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is of another kind or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"teacher {path} does not exist: give a file that birq cluster-labels wrote")
    try:
        found = TeacherFile(**load_torch_file(path))
        own = found.found_checksum()
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a teacher, or is truncated or damaged ({str(error).splitlines()[0]}): give a file that "
            "birq cluster-labels wrote"
        ) from error
    if own != found.checksum:
        raise ValueError(f"{path} is damaged: its checksum is {own}, but it records {found.checksum}. Use an undamaged copy")
    return found


class TeacherLabeler:
    """Labels features by the nearest centroid of layer K; implements ``anchor.AnchorLabeler`` with one codebook.

    It is not an ``nn.Module``, so that no optimizer, state dict, DDP or cast can change it. In training, the labels of a
    batch equal those that offline extraction would write, except for rounding and the dither of the preprocessor.

    Args:
        file: layers and centroids.
    """

    fitting = None

    def __init__(self, file: TeacherFile):
        self.file = file
        with torch.random.fork_rng(devices=[]):  # the initial weights of the model must not depend on a teacher
            self.encoder = ConformerEncoder(**{k: v for k, v in file.encoder.items() if not k.startswith("_")})
        self.encoder.load_state_dict(file.weights, strict=True)
        self.encoder.eval().requires_grad_(False)
        self.centroids = file.centroids
        self.first_frame = first_encoder_frame(self.encoder)

    @property
    def num_clusters(self) -> int:
        """V, number of clusters."""
        return len(self.centroids)

    @torch.no_grad()
    def __call__(self, features: Tensor, lengths: Tensor, frames: Tensor, num_frames: int) -> Tensor:
        """Computes the labels (N, 1) int64 in [0, V), in float32 also under autocast; see
        ``anchor.AnchorLabeler.__call__``."""
        if self.centroids.device != features.device:
            self.encoder.to(features.device)
            self.centroids = self.centroids.to(features.device)
        with torch.autocast(features.device.type, enabled=False):
            hidden, _ = encode_to_layer(self.encoder, features.float(), lengths, self.file.layer)
            hidden = F.pad(hidden, (0, 0, 0, num_frames - hidden.shape[1]))  # the frames of padding may be cut off
            return nearest_centroids(hidden.flatten(0, 1)[frames], self.centroids).unsqueeze(1)

    def tensors(self) -> dict[str, Tensor]:
        """Returns no tensors, because a teacher is saved as a separate file."""
        return {}


def nearest_centroids(frames: Tensor, centroids: Tensor) -> Tensor:
    """Finds the nearest centroids by |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2): (N, D), (V, D) -> (N,) int64."""
    half = centroids.square().sum(dim=1) / 2
    return torch.cat([(chunk @ centroids.T - half).argmax(dim=1) for chunk in frames.split(CHUNK_FRAMES)])


def find_teacher(cfg: DictConfig, birq: BiRQConfig) -> TeacherLabeler | None:
    """Opens and checks the teacher of a configuration, if any; writes its absolute path and checksum into ``birq``.

    Args:
        cfg: ``model`` node of a configuration, or the configuration of a ``.nemo`` that is being restored.
        birq: its parsed ``birq`` node.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a teacher, not the one that the model was trained with, or does not fit the model.
    """
    settings = birq.relabelling
    if settings.teacher is None:
        return None
    if settings.teacher.startswith(PACKED):
        path = Path(AppState().nemo_file_folder or "", settings.teacher.removeprefix(PACKED))
        if not path.is_file():
            raise FileNotFoundError(
                f"model.{KEY}={settings.teacher}: this .nemo does not hold its teacher. It was saved again by a class that "
                "does not know teachers. Use the file that training wrote"
            )
    else:
        path = Path(settings.teacher).expanduser().absolute()
        settings.teacher = str(path)  # a run may be resumed, and a checkpoint opened, from another folder
    file = read_teacher_file(path)
    if settings.checksum not in (None, file.checksum):
        raise ValueError(
            f"teacher {path} has the checksum {file.checksum}, but the model was trained with {settings.checksum}: "
            "its labels would change. Restore the old file, or start a new model"
        )
    check_fits(file, cfg, birq, path)
    settings.checksum = file.checksum
    return TeacherLabeler(file)


def check_fits(file: TeacherFile, cfg: DictConfig, birq: BiRQConfig, path: Path) -> None:
    """Checks that a teacher labels the frames of this model with the codes of its heads.

    Raises:
        ValueError: the number of clusters is not the number of codes, or the features or frames differ.
    """
    clusters, codes = len(file.centroids), birq.quantizer.num_codes
    if clusters != codes:
        raise ValueError(
            f"teacher {path} has {clusters} clusters, but model.birq.quantizer.num_codes={codes}: set "
            f"model.birq.quantizer.num_codes={clusters}, or cluster again with --clusters {codes}"
        )
    own = OmegaConf.to_container(cfg.preprocessor, resolve=True)
    keys = sorted((own.keys() | file.preprocessor.keys()) - set(NOT_COMPARED))
    pairs = {f"preprocessor.{key}": (file.preprocessor.get(key), own.get(key)) for key in keys}
    pairs["encoder.subsampling_factor"] = (file.encoder["subsampling_factor"], cfg.encoder.subsampling_factor)
    differ = [f"model.{key}={mine} (teacher: {its})" for key, (its, mine) in pairs.items() if mine != its]
    if differ:
        raise ValueError(
            f"teacher {path} labels other features than this model reads: {', '.join(differ)}. Set these keys to the "
            "values of the teacher, or make a teacher from a model with the values of this one"
        )
