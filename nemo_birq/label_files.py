"""How a BiRQ model keeps the tensors that define its labels in ``.nemo`` files and checkpoints."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from nemo.utils import logging
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from nemo_birq.labels import tensors as label_tensors


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
