"""Anchor or enhanced labels of whole utterances, as integers in a NeMo manifest.

Shapes: B utterances, T' encoder frames, H codebooks.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.extraction.store import SETTINGS, PartStore, check_same
from nemo_birq.model import BiRQModel
from nemo_birq.modules.layer_pass import check_finite, encoder_lengths
from nemo_birq.modules.masking import positions, valid_frames
from nemo_birq.utils.files import file_sha256, read_json, write_json

KINDS = ("anchor", "enhanced")


def check_can_label(model: BiRQModel, path: Path, kind: str) -> None:
    """Refuses labels that the model of a file does not have.

    Raises:
        ValueError: enhanced labels of a model that never made any.
    """
    if kind == "enhanced" and not model.enhanced_labeler.normalization.has_statistics:
        raise ValueError(
            f"{path} never made enhanced labels in training (w1 was 0 so far): it has no statistics of layer k, and a "
            "label would depend on the utterances beside it. Take --labels anchor, or a model trained further"
        )


@torch.inference_mode()
def compute_labels(model: BiRQModel, batch: SpeechBatch, kind: str) -> list[np.ndarray]:
    """Labels of each utterance, (T', H) int64. Anchor labels need no encoder, enhanced ones its first k layers."""
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


def write_labels(kind: str) -> Callable[[PartStore, int, list[dict], list[np.ndarray], list[str]], None]:
    """Returns a writer of parts: the manifest's line and ``anchor_labels`` or ``enhanced_labels``.

    With one codebook that is a list of T' numbers, with H > 1 a list of T' lists.
    """

    def write(store: PartStore, number: int, lines: list[dict], results: list[np.ndarray], names: list[str]) -> None:
        flat = [labels[:, 0] if labels.shape[1] == 1 else labels for labels in results]
        labelled = [line | {f"{kind}_labels": labels.tolist()} for line, labels in zip(lines, flat, strict=True)]
        with store.writing(number, labelled):
            pass

    return write


# --- the file and the folder that it grows in ----------------------------------------------------------------------


def parts_folder(out: Path) -> Path:
    """Returns the folder of the parts of a manifest until it is complete."""
    return out.with_name(out.name + ".parts")


def settings_path(out: Path) -> Path:
    """Returns the file with the settings that made the manifest."""
    return out.with_name(out.name + ".settings.json")


def is_complete(out: Path, settings: dict[str, Any]) -> bool:
    """Tests if the manifest exists, made with the same settings.

    Raises:
        ValueError: a file of this name that was made with other settings, or by somebody else, or was changed since.
    """
    if not out.exists():
        return False
    if not settings_path(out).is_file():
        raise ValueError(
            f"{out} exists already, without {settings_path(out).name}, which would name the script that made it: give "
            "another name with --out"
        )
    made = check_same(settings_path(out), settings, f"{out} was made with other settings", "Give another name with --out")
    if made.get("sha256") not in (None, file_sha256(out)):  # earlier versions wrote none
        raise ValueError(
            f"{out} is damaged or was changed: its SHA-256 is not the one in {settings_path(out)}. Move it away to make the "
            "labels again, or give another name with --out"
        )
    shutil.rmtree(parts_folder(out), ignore_errors=True)  # of a run that was killed after it had put them together
    return True


def finish(store: PartStore, parts: int, out: Path) -> None:
    """Puts the manifest together and removes the parts."""
    digest = hashlib.sha256()
    for number in range(parts):
        digest.update(store.list_path(number).read_bytes())
    made = read_json(store.folder / SETTINGS)
    write_json(settings_path(out), made | {"sha256": digest.hexdigest()})
    store.merge(parts, out)
    store.close()
    shutil.rmtree(store.folder)
