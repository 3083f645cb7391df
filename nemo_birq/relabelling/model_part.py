"""What a BiRQ model has to do with a teacher: find it, check that it fits, carry it in files."""

import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict

from nemo_birq.labels.anchor import AnchorLabeler
from nemo_birq.labels.quantizer import RandomProjectionQuantizer
from nemo_birq.labels.teacher import KEY, Teacher, TeacherLabeler

NAME = "birq_teacher.pt"  # inside a .nemo


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
