"""Artifacts of a BiRQ model in ``.nemo`` files and checkpoints: label tensors, teacher and model card."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from nemo.core import ModelPT
from nemo.utils import logging
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from nemo_birq.checkpoint.model_card import build_card
from nemo_birq.checkpoint.training_record import record_training
from nemo_birq.labels import tensors as label_tensors
from nemo_birq.labels.anchor import AnchorLabeler
from nemo_birq.labels.quantizer import RandomProjectionQuantizer
from nemo_birq.labels.teacher import KEY, Teacher, TeacherLabeler

ARTIFACT = "card.file"
NAME = "birq_teacher.pt"  # inside a .nemo


class LabelFiles:
    """Saving and restoring of projections, codebook and running statistics; a part of ``BiRQModel``."""

    def _label_tensors(self) -> dict[str, Tensor]:
        """Projections and codebook from the ``.nemo`` being restored, else from their seed; checked either way."""
        source, tensors = "the generator of this PyTorch version", None
        if self.birq.quantizer.tensors:
            try:
                source = self.register_artifact("birq.quantizer.tensors", self.birq.quantizer.tensors)
                tensors = torch.load(source, weights_only=True)
            except FileNotFoundError:
                logging.warning(
                    "This .nemo was saved again by a class that does not know BiRQ's label tensors: projections and "
                    "codebook are drawn again from their seed, the running statistics of layer k are lost and begin anew."
                    " So does a tracked codebook: its enhanced labels are others."
                )
        if tensors is None:
            encoder = self.cfg.encoder
            tensors = label_tensors.draw(
                self.birq.quantizer, self.birq.labels, encoder.subsampling_factor * encoder.feat_in, encoder.d_model
            )
        label_tensors.verify(tensors, self.birq.quantizer.checksum, source)
        self._record("checksum", label_tensors.fixed_checksum(tensors))
        self._forget_artifact()
        return tensors

    def _record(self, key: str, value: str | None) -> None:
        with open_dict(self._cfg):
            OmegaConf.update(self._cfg, f"birq.quantizer.{key}", value)
        self.cfg = self._cfg  # updates the hyper-parameters that checkpoints carry

    def _forget_artifact(self) -> None:
        self._record("tensors", None)
        if self.has_artifacts():
            self.artifacts.pop("birq.quantizer.tensors", None)

    def save_to(self, save_path: str) -> None:
        """Writes a ``.nemo`` that any NeMo opens, with the tensors that define the labels inside."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "birq_label_tensors.pt"
            torch.save(label_tensors.collect(self.anchor_labeler, self.enhanced_labeler), path)
            self.register_artifact("birq.quantizer.tensors", str(path))
            try:
                super().save_to(save_path)
            finally:
                self._forget_artifact()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["birq_label_tensors"] = label_tensors.collect(self.anchor_labeler, self.enhanced_labeler)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        tensors = checkpoint["birq_label_tensors"]
        trained = checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]["cfg"].birq.quantizer
        label_tensors.verify(tensors, trained.checksum, "the checkpoint")
        if trained.seed != self.birq.quantizer.seed:
            raise ValueError(
                f"the checkpoint was trained with birq.quantizer.seed={trained.seed}, this run has "
                f"{self.birq.quantizer.seed}: its labels would change. Resume with the old seed, or start a new experiment "
                "(another exp_manager.name or exp_dir)."
            )
        # The checkpoint's tensors count, should this version of PyTorch draw others from the seed.
        label_tensors.restore(tensors, self.anchor_labeler, self.enhanced_labeler)
        self._record("checksum", trained.checksum)


class Relabelling:
    """A frozen teacher in a model's files; a part of ``BiRQModel``."""

    teacher: Teacher | None

    def make_anchor_labeler(self, quantizer: RandomProjectionQuantizer) -> AnchorLabeler:
        """The nearest codes of the input, or the teacher's labels where there is one."""
        subsampling = self.cfg.encoder.subsampling_factor
        if self.teacher is None:
            return AnchorLabeler(quantizer, subsampling)
        return TeacherLabeler(quantizer, subsampling, self.teacher)

    def save_to(self, save_path: str) -> None:
        """Writes a ``.nemo`` with the teacher inside, and without the path that it came from."""
        if self.teacher is None:
            super().save_to(save_path)
            return
        named = self.cfg.birq.relabelling.teacher
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / NAME
            self.teacher.file.save(path)
            self._name_teacher(self.teacher.file.made_from)
            self.register_artifact(KEY, str(path))
            try:
                super().save_to(save_path)
            finally:
                self.artifacts.pop(KEY)
                self._name_teacher(named)

    def _name_teacher(self, name: str) -> None:
        with open_dict(self._cfg):
            OmegaConf.update(self._cfg, KEY, name)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: the checkpoint was trained with another teacher, or without one.
        """
        super().on_load_checkpoint(checkpoint)
        trained = OmegaConf.select(checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]["cfg"], "birq.relabelling.checksum")
        own = self.birq.relabelling.checksum
        if trained != own:
            raise ValueError(
                f"the checkpoint was trained with {_described(trained)}, this run has {_described(own)}: its labels "
                f"would change. Resume with the model.{KEY} of then, or start a new experiment (another exp_manager.name or "
                "exp_dir)."
            )


def _described(checksum: str | None) -> str:
    return "no teacher" if checksum is None else f"the teacher with the checksum {checksum}"


@contextmanager
def packed_card(model: ModelPT, card: ModelCard) -> Iterator[None]:
    """Within it, NeMo packs the card into every ``.nemo`` that the model is saved to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "README.md"
        card.save(path)
        with open_dict(model._cfg):
            OmegaConf.update(model._cfg, ARTIFACT, None)
        model.register_artifact(ARTIFACT, str(path))
        try:
            yield
        finally:
            model.artifacts.pop(ARTIFACT)
            with open_dict(model._cfg):
                OmegaConf.update(model._cfg, ARTIFACT, None)


class CardFile:
    """Saving with a card; a part of ``BiRQModel``."""

    _saved: Path | None = None
    """The last ``.nemo`` that was written in this training."""

    def save_to(self, save_path: str) -> None:
        """Writes a ``.nemo`` with its card inside; while a trainer is at hand, with a record of the training."""
        if self._trainer is not None and self._trainer.global_step > 0:
            with open_dict(self._cfg):
                self._cfg.pretraining = record_training(self, self._trainer, self.alarms)
        with packed_card(self, build_card(self, Path(save_path).stem)):
            super().save_to(save_path)
        self._saved = Path(save_path)

    def on_train_start(self) -> None:
        super().on_train_start()
        self._saved = None  # a README.md beside a file that was written before is none of this training's business

    def on_train_end(self) -> None:
        """Writes README.md beside the ``.nemo`` that NeMo's checkpoint callback has just written."""
        super().on_train_end()
        if self._saved is not None and self.trainer.is_global_zero:
            readme = _free(self._saved.parent / "README.md")
            build_card(self, self._saved.stem).save(readme)
            logging.info(f"{self._saved} has a model card, {readme}")

    def generate_model_card(self, type: str = "hf", template: str | None = None, template_kwargs: dict | None = None):
        """What ``push_to_hf_hub`` writes as README.md; a ``template`` of one's own goes through NeMo's method."""
        if template is not None or type != "hf":
            return super().generate_model_card(type, template, template_kwargs)
        repo_id = (template_kwargs or {}).get("repo_id")
        return build_card(self, repo_id.split("/")[-1] if repo_id else "model", repo_id)


def _free(path: Path) -> Path:
    """The path; what lies there, and may have been edited, is moved to ``<stem>-v<number>``, as NeMo does with models."""
    number = 1
    while path.exists() and (old := path.with_stem(f"{path.stem}-v{number}")).exists():
        number += 1
    if path.exists():
        path.rename(old)
    return path
