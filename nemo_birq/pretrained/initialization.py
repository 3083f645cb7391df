"""Continued pretraining: initialization of a ``BiRQModel`` with the encoder of a file, and with the labels of a BiRQ model.

It replaces NeMo's ``maybe_init_from_pretrained_checkpoint``, which opens files as the class of the model in training. That
method cannot open the file of a recognizer, copies only the tensors that fit, and silently skips the others.
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
"""Keys of ``model.birq`` that define the labels of the heads and label tensors of a file."""


def check_initial_file(cfg: DictConfig) -> None:
    """Checks the file from which a training starts, if any, against the configuration; reads no tensors.

    Args:
        cfg: the whole configuration, with at most one of ``named.INIT_KEYS``.

    Raises:
        FileNotFoundError, ValueError: as ``named.initial_file`` and ``source.read_source_config``; also if architecture or
            labels differ from the file, with the list of differences.
    """
    path = initial_file(cfg)
    if path is not None:
        _check_settings(cfg.model, read_source_config(path), path, cfg.get("new_labels", False))


def initialize(model: ModelPT, cfg: DictConfig, map_location: Any = "cpu") -> Taken | None:
    """Loads the weights of the file that the configuration of a run names, if any.

    Preprocessor and encoder are copied completely. From a BiRQ model, the heads and the label tensors (projections,
    codebooks, statistics of layer k) are copied too, except with ``new_labels`` or if a teacher makes the labels (offline
    relabelling).

    Args:
        model: a new ``BiRQModel``; changed.
        cfg: as for ``check_initial_file``.
        map_location: not used; NeMo's method has it.

    Returns:
        Counts of the copied tensors; None if the configuration names no file.

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
    compare(model, source.weights, str(path), parts)
    model.load_state_dict({name: tensor for name, tensor in source.weights.items() if name.startswith(parts)}, strict=False)
    if keeps_labels:
        restore_labels(model, source.label_tensors)
    _record(model, source, keeps_labels)
    report = Taken.of(model, source.weights, parts)
    labels = "those of the file" if keeps_labels else f"new, from model.birq.quantizer.seed={model.birq.quantizer.seed}"
    logging.info(f"{path} ({source.kind}): {report}; label tensors: {labels}")
    return report


def _check_settings(own: DictConfig, theirs: DictConfig, path: Path, new_labels: bool) -> bool:
    """Compares the settings of a model with those of a file; returns True if the labels of the file can be kept.

    Raises:
        ValueError: settings differ; the message lists the differences.
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
            f"the labels would differ from those of {path}, and its heads have learned other labels:\n  "
            + "\n  ".join(found)
            + "\nSet these keys to the values of the file, take them from it with like=true, or use new labels and new "
            "heads: new_labels=true"
        )
    return True


def _values(birq: BiRQConfig, model: DictConfig) -> list[Any]:
    """Returns the values of ``SAME_LABELS``, with layer k as a number."""
    node = OmegaConf.create(asdict(birq))
    layer = resolve_layer(birq.labels.layer, model.encoder.n_layers)
    return [layer if key == "labels.layer" else OmegaConf.select(node, key) for key in SAME_LABELS]


def _record(model: ModelPT, source: Source, keeps_labels: bool) -> None:
    """Records for the model card from which file the training started, and how that file was trained."""
    before = plain(source.config.get("pretraining"))
    record = {"file": source.path.name, "kind": source.kind, "labels": "kept" if keeps_labels else "new"}
    record |= {key: before[key] for key in ("steps", "data", "continued_from") if key in before}
    with open_dict(model._cfg):
        model._cfg.pretraining = {"continued_from": record}
    model.cfg = model._cfg  # updates the hyperparameters in checkpoints
