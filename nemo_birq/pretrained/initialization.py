"""Continued pretraining: a ``BiRQModel`` begins with the encoder, and of a BiRQ model with the labels, of a file.

It stands behind NeMo's ``maybe_init_from_pretrained_checkpoint``, which opens files as the class of the model that is to be
trained, so that no recognizer's file opens, takes what fits, and says nothing of the rest.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nemo.core import ModelPT
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_birq.checkpoint.artifacts import restore_labels
from nemo_birq.config import BiRQConfig, parse, resolve_layer
from nemo_birq.pretrained.architecture import check_architecture, plain
from nemo_birq.pretrained.named import ENCODER_PARTS, initial_file
from nemo_birq.pretrained.source import Source, read_source, read_source_config
from nemo_birq.pretrained.weights import Taken, compare

HEADS = "decoder_losses."
SAME_LABELS = (
    "quantizer.num_codes", "quantizer.code_dim", "quantizer.num_books", "quantizer.seed", "labels.layer",
    "labels.normalization", "labels.projection", "labels.codebook", "labels.code_dim", "anchor.normalization",
    "anchor.projection", "anchor.codes", "loss.head",
)  # fmt: skip
"""Keys of ``model.birq`` that decide which labels the heads and the label tensors of a file are for."""


def check_initial_file(cfg: DictConfig) -> None:
    """Checks the file that a training begins with, if there is one, against the configuration; reads no tensors.

    Args:
        cfg: the whole configuration, with one of ``named.INIT_KEYS`` or none.

    Raises:
        FileNotFoundError, ValueError: as ``named.initial_file`` and ``source.read_source_config``; the architecture differs
            from the file's, or the labels do; with the list of differences.
    """
    path = initial_file(cfg)
    if path is not None:
        _check_settings(cfg.model, read_source_config(path), path, cfg.get("new_labels", False))


def initialize(model: ModelPT, cfg: DictConfig, map_location: Any = "cpu") -> Taken | None:
    """Gives a model the weights of the file that the configuration of a run names, if it names one.

    Preprocessor and encoder are taken whole. Of a BiRQ model the heads and the label tensors come along: projections,
    codebooks, statistics of layer k. With ``new_labels`` in the configuration, and where a teacher makes the labels
    (offline relabelling), they do not.

    Args:
        model: a new ``BiRQModel``; changed.
        cfg: as for ``check_initial_file``.
        map_location: not used; NeMo's method has it.

    Returns:
        What was taken over; None where the configuration names no file.

    Raises:
        FileNotFoundError, ValueError: as ``check_initial_file`` and ``source.read_source``.
    """
    path = initial_file(cfg)
    if path is None:
        return None
    source = read_source(path)
    keeps_labels = _check_settings(model.cfg, source.config, path, cfg.get("new_labels", False))
    keeps_labels = keeps_labels and source.label_tensors is not None
    parts = (*ENCODER_PARTS, HEADS) if keeps_labels else ENCODER_PARTS
    compare(model, source.weights, str(path), values=False, parts=parts)
    model.load_state_dict({name: tensor for name, tensor in source.weights.items() if name.startswith(parts)}, strict=False)
    if keeps_labels:
        restore_labels(model, source.label_tensors)
    _record(model, source, keeps_labels)
    report = Taken.of(model, source.weights, parts)
    labels = "those of the file" if keeps_labels else f"new, from model.birq.quantizer.seed={model.birq.quantizer.seed}"
    logging.info(f"{path} ({source.kind}): {report}; label tensors: {labels}")
    return report


def _check_settings(own: DictConfig, theirs: DictConfig, path: Path, new_labels: bool) -> bool:
    """Compares the settings of a model with those of a file; returns True where the labels of the file can be kept.

    Raises:
        ValueError: with the list of differences.
    """
    check_architecture(own, theirs, str(path))
    if new_labels or "birq" not in theirs:
        return False
    before, now = (parse(node.birq) for node in (theirs, own))
    if before.relabelling.checksum or now.relabelling.teacher:
        return False
    found = [
        f"model.birq.{key}={value}; pretrained: {pretrained}"
        for key, value, pretrained in zip(SAME_LABELS, _values(now, own), _values(before, theirs), strict=True)
        if value != pretrained
    ]
    if found:
        raise ValueError(
            f"the labels would not be those of {path}, and its heads would predict other labels than they have learned:\n  "
            + "\n  ".join(found)
            + "\nSet these keys as they are there, take them from the file with like=true, or begin with new labels and new "
            "heads: new_labels=true"
        )
    return True


def _values(birq: BiRQConfig, model: DictConfig) -> list[Any]:
    """Returns the values of ``SAME_LABELS``, of layer k its number."""
    node = OmegaConf.create(asdict(birq))
    layer = resolve_layer(birq.labels.layer, model.encoder.n_layers)
    return [layer if key == "labels.layer" else OmegaConf.select(node, key) for key in SAME_LABELS]


def _record(model: ModelPT, source: Source, keeps_labels: bool) -> None:
    """Keeps for the model card which file the training began with, and how that one was trained."""
    before = plain(source.config.get("pretraining"))
    record = {"file": source.path.name, "kind": source.kind, "labels": "kept" if keeps_labels else "new"}
    record |= {key: before[key] for key in ("steps", "data", "continued_from") if key in before}
    with open_dict(model._cfg):
        model._cfg.pretraining = {"continued_from": record}
    model.cfg = model._cfg  # updates the hyper-parameters that checkpoints carry
