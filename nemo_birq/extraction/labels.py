"""Computation of anchor or enhanced labels of whole utterances, and writing as integers in a NeMo manifest.

Shapes: B utterances, T' encoder frames, H codebooks.
"""

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.extraction.data import open_data
from nemo_birq.extraction.on_cluster import Opened
from nemo_birq.extraction.store import SETTINGS, PartFolder, PartStore, check_same
from nemo_birq.loading import load_model
from nemo_birq.model import BiRQModel
from nemo_birq.modules.layer_pass import check_finite, encoder_lengths
from nemo_birq.modules.masking import positions, valid_frames
from nemo_birq.utils.files import file_sha256, read_json, write_json

KINDS = ("anchor", "enhanced")


def check_can_label(model: BiRQModel, path: Path, kind: str) -> None:
    """Refuses enhanced labels of a model that was trained without them.

    Raises:
        ValueError: the model has no statistics of layer k.
    """
    if kind == "enhanced" and not model.enhanced_labeler.normalization.has_statistics:
        raise ValueError(
            f"{path} was trained without enhanced labels (w1 = 0 so far): it has no statistics of layer k, so labels would "
            "depend on the other utterances of a batch. Use --labels anchor, or a model from a later step"
        )


@torch.inference_mode()
def compute_labels(model: BiRQModel, batch: SpeechBatch, kind: str) -> list[np.ndarray]:
    """Computes the labels of each utterance, (T', H) int64. Enhanced labels need the first k layers of the encoder."""
    signal, signal_length = batch.signal.to(model.device), batch.signal_length.to(model.device)
    features, lengths = model.preprocessor(input_signal=signal, length=signal_length)
    if kind == "enhanced":
        hidden, encoded_len = model.label_pass(features, lengths)
        check_finite(hidden, f"layer {model.layer}")
        valid = valid_frames(encoded_len, hidden.shape[1])
        labels = model.enhanced_labeler.nearest(hidden, valid, positions(valid))
    else:
        encoded_len = encoder_lengths(model.encoder, features, lengths)
        valid = valid_frames(encoded_len, int(encoded_len.max()))
        labels = model.anchor_labeler(features, lengths, positions(valid), valid.shape[1])
    return [one.numpy() for one in labels.cpu().split(encoded_len.tolist())]


def write_labels(kind: str) -> Callable[[PartFolder, int, list[dict], list[np.ndarray], list[str]], None]:
    """Returns a writer of parts, which adds ``anchor_labels`` or ``enhanced_labels`` to the manifest lines.

    The value is a list of T' numbers with one codebook, and a list of T' lists with H > 1.
    """

    def write(store: PartFolder, number: int, lines: list[dict], results: list[np.ndarray], names: list[str]) -> None:
        flat = [labels[:, 0] if labels.shape[1] == 1 else labels for labels in results]
        labelled = [line | {f"{kind}_labels": labels.tolist()} for line, labels in zip(lines, flat, strict=True)]
        with store.writing(number, labelled):
            pass

    return write


class LabelExtraction(NamedTuple):
    """Labels by names and options, for tasks of a cluster; see ``on_cluster.Extraction``."""

    model: str
    data: str
    tars: str | None
    kind: str

    def open(self) -> Opened:
        """Opens model and data; errors as ``load_model`` and ``open_data``."""
        model = load_model(self.model)
        data = open_data(self.data, self.tars, model.cfg.sample_rate)
        return Opened(data, partial(compute_labels, model, kind=self.kind), write_labels(self.kind))


# --- the output file and the folder of its parts -------------------------------------------------------------------


def parts_folder(out: Path) -> Path:
    """Returns the folder of the parts of an incomplete manifest."""
    return out.with_name(out.name + ".parts")


def settings_path(out: Path) -> Path:
    """Returns the file with the settings of a manifest."""
    return out.with_name(out.name + ".settings.json")


def is_complete(out: Path, settings: dict[str, Any]) -> bool:
    """Returns True if the manifest exists and was made with the same settings.

    Raises:
        ValueError: the file was made with other settings or by another program, or was changed later.
    """
    if not out.exists():
        return False
    if not settings_path(out).is_file():
        raise ValueError(
            f"{out} exists already, but was not made by this command (there is no {settings_path(out).name}): give "
            "another name with --out"
        )
    made = check_same(settings_path(out), settings, f"{out} was made with other settings", "Give another name with --out")
    if made.get("sha256") not in (None, file_sha256(out)):  # earlier versions wrote no checksum
        raise ValueError(
            f"{out} is damaged or was changed: its SHA-256 differs from {settings_path(out)}. Move it away to compute the "
            "labels again, or give another name with --out"
        )
    shutil.rmtree(parts_folder(out), ignore_errors=True)  # left by a run that was killed after merging the parts
    return True


def finish(store: PartStore, parts: int, out: Path) -> None:
    """Merges the parts to the manifest and removes them."""
    digest = hashlib.sha256()
    for number in range(parts):
        digest.update(store.list_path(number).read_bytes())
    made = read_json(store.folder / SETTINGS)
    write_json(settings_path(out), made | {"sha256": digest.hexdigest()})
    store.merge(parts, out)
    store.close()
    shutil.rmtree(store.folder)
