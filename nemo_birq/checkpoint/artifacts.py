"""Artifacts of a BiRQ model: the files in a ``.nemo`` beside configuration and weights.

These are the label tensors, the teacher of offline relabelling, and the model card. NeMo packs the artifacts that are
registered with the model when ``save_to`` runs. This package registers them only for that time, because they depend on the
state of the model at saving.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCard
from nemo.core import ModelPT
from nemo.utils import logging
from nemo.utils.get_rank import is_global_rank_zero
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from nemo_birq.checkpoint.model_card import build_card
from nemo_birq.checkpoint.training_record import record_training
from nemo_birq.config import BiRQConfig
from nemo_birq.labels import tensors as label_tensors
from nemo_birq.labels.teacher import KEY as TEACHER
from nemo_birq.utils.torch_files import load_torch_file

CARD = "card.file"
TENSORS = "birq.quantizer.tensors"
CHECKSUM = "birq.quantizer.checksum"
LABEL_TENSORS = "birq_label_tensors.pt"
"""Name of the file in a ``.nemo`` with the tensors that define the labels."""


class Artifact(NamedTuple):
    """A file inside a ``.nemo``."""

    key: str
    """Key of the model configuration that names the file in a ``.nemo``."""
    name: str
    write: Callable[[Path], Any]


@contextmanager
def packed(model: ModelPT, *artifacts: Artifact) -> Iterator[None]:
    """Makes NeMo pack files into every ``.nemo`` that rank 0 saves within the block.

    The configuration of the model is restored afterwards.
    """
    if not is_global_rank_zero():
        yield
        return
    before = {artifact.key: OmegaConf.select(model.cfg, artifact.key) for artifact in artifacts}
    with tempfile.TemporaryDirectory() as folder:
        for artifact in artifacts:  # before NeMo's table of artifacts exists, which would hide an error of a full disk
            artifact.write(Path(folder, artifact.name))
        try:
            for artifact in artifacts:
                set_key(model, artifact.key, None)
                model.register_artifact(artifact.key, str(Path(folder, artifact.name)))
            yield
        finally:
            for key, value in before.items():
                model.artifacts.pop(key, None)
                set_key(model, key, value)


@contextmanager
def packed_model(model: ModelPT, name: str) -> Iterator[None]:
    """Makes NeMo pack all artifacts of a ``BiRQModel`` and, if it has a trainer, a record of its training.

    Args:
        model: model with labelers, ``teacher`` and ``monitor``.
        name: name of the model, for its card.
    """
    artifacts = [Artifact(TENSORS, LABEL_TENSORS, lambda path: torch.save(labels_of(model), path))]
    named = OmegaConf.select(model.cfg, TEACHER)
    if model.teacher is not None:
        artifacts.append(Artifact(TEACHER, "birq_teacher.pt", model.teacher.file.save))
        set_key(model, TEACHER, model.teacher.file.made_from)  # the record and the card must not hold a path
    try:
        if model._trainer is not None and model._trainer.global_step > 0:
            with open_dict(model._cfg):
                model._cfg.pretraining = record_training(model, model._trainer, model.monitor)
        card = build_card(model, name)
    finally:
        set_key(model, TEACHER, named)
    with packed(model, *artifacts, card_artifact(card)):
        yield


def card_artifact(card: ModelCard) -> Artifact:
    """Returns the artifact of a model card."""
    return Artifact(CARD, "README.md", card.save)


def labels_of(model: ModelPT) -> dict[str, Tensor]:
    """Returns the tensors that define the labels of a ``BiRQModel``, on the CPU."""
    return model.fixed_tensors | label_tensors.collect(model.anchor_labeler, model.enhanced_labeler)


def load_or_draw_tensors(model: ModelPT, cfg: DictConfig, birq: BiRQConfig) -> dict[str, Tensor]:
    """Returns the label tensors of the ``.nemo`` that is being restored; otherwise draws them from their seed.

    Raises:
        ValueError: the checksum differs from the configuration.
    """
    source, tensors = "the generator of this PyTorch version", None
    if birq.quantizer.tensors:
        try:
            source = model.register_artifact(TENSORS, birq.quantizer.tensors)
            tensors = _read_tensors(source)
        except FileNotFoundError:
            logging.warning(
                "This .nemo was saved again by a class that does not know BiRQ's label tensors. Projections and codebook "
                "are drawn again from their seed. The running statistics of layer k, fitted anchors and a tracked codebook "
                "are lost, so the labels change. Use the file that training wrote to keep them."
            )
        model.artifacts.pop(TENSORS, None)
        set_key(model, TENSORS, None)
    if tensors is None:
        encoder = cfg.encoder
        width = encoder.subsampling_factor * encoder.feat_in
        tensors = label_tensors.draw(birq.quantizer, birq.anchor, birq.labels, width, encoder.d_model)
    label_tensors.verify(tensors, birq.quantizer.checksum, source)
    return tensors


def _read_tensors(path: str) -> dict[str, Tensor]:
    try:
        return load_torch_file(path)
    except ValueError as error:
        raise ValueError(f"the label tensors {path} of the .nemo cannot be read ({error}): get the file again") from error


def check_same_labels(model: ModelPT, checkpoint: dict[str, Any]) -> None:
    """Refuses a Lightning checkpoint with other labels than the model.

    Raises:
        ValueError: the checkpoint was trained with another seed or another teacher, or its label tensors are damaged.
    """
    trained, own = checkpoint[model.CHECKPOINT_HYPER_PARAMS_KEY]["cfg"].birq, model.birq
    label_tensors.verify(checkpoint["birq_label_tensors"], trained.quantizer.checksum, "the checkpoint")
    remedy = "or start a new experiment (another exp_manager.name or exp_dir)."
    if trained.quantizer.seed != own.quantizer.seed:
        raise ValueError(
            f"the checkpoint was trained with birq.quantizer.seed={trained.quantizer.seed}, but this run has "
            f"{own.quantizer.seed}: its labels would change. Resume with the old seed, {remedy}"
        )
    teachers = [OmegaConf.select(trained, "relabelling.checksum"), own.relabelling.checksum]
    if teachers[0] != teachers[1]:
        then, now = ("no teacher" if one is None else f"the teacher with the checksum {one}" for one in teachers)
        raise ValueError(
            f"the checkpoint was trained with {then}, but this run has {now}: its labels would change. Resume with "
            f"the old model.{TEACHER}, {remedy}"
        )


def restore_labels(model: ModelPT, tensors: dict[str, Tensor]) -> None:
    """Copies label tensors into the labelers of a model, and their checksum into the configuration."""
    label_tensors.restore(tensors, model.anchor_labeler, model.enhanced_labeler)
    # This includes the projection that a teacher replaces, so that the files of all models hold the same tensors.
    model.fixed_tensors = {name: tensors[name].detach().cpu().clone() for name in label_tensors.FIXED}
    set_key(model, CHECKSUM, label_tensors.fixed_checksum(model.fixed_tensors))
    model.cfg = model._cfg  # updates the hyperparameters in checkpoints


def set_key(model: ModelPT, key: str, value: Any) -> None:
    """Sets a key of a model's configuration."""
    with open_dict(model._cfg):
        OmegaConf.update(model._cfg, key, value)


def write_card_beside(model: ModelPT, nemo: Path) -> None:
    """Writes README.md beside a ``.nemo``. An existing README.md, which may have been edited, is moved away."""
    readme = _free(nemo.parent / "README.md")
    build_card(model, nemo.stem).save(readme)
    logging.info(f"Model card of {nemo}: {readme}")


def _free(path: Path) -> Path:
    """Returns the path, after moving an existing file to ``<stem>-v<number>``, as NeMo does with models."""
    number = 1
    while path.exists() and (old := path.with_stem(f"{path.stem}-v{number}")).exists():
        number += 1
    if path.exists():
        path.rename(old)
    return path
