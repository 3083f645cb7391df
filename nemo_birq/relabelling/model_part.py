"""What a BiRQ model has to do with a teacher: find it, check that it fits, carry it in files."""

import tempfile
from pathlib import Path
from typing import Any

from nemo.utils import AppState
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_birq.anchor_labeler import AnchorLabeler
from nemo_birq.config import BiRQConfig
from nemo_birq.quantizer import RandomProjectionQuantizer
from nemo_birq.relabelling.labeler import TeacherLabeler
from nemo_birq.relabelling.teacher import Teacher, TeacherFile, read_teacher_file

KEY = "birq.relabelling.teacher"
NAME = "birq_teacher.pt"  # inside a .nemo
PACKED = "nemo:"  # NeMo's prefix of such names
NOT_COMPARED = ("dither", "pad_to")  # of two preprocessors: noise in training alone, and padding, which has no labels


def find_teacher(cfg: DictConfig, birq: BiRQConfig) -> Teacher | None:
    """The teacher that the configuration names, if any, checked; writes its absolute path and checksum into ``birq``.

    Args:
        cfg: ``model`` node of a configuration, or that of a ``.nemo`` being restored.
        birq: its parsed ``birq`` node.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no teacher, not the one that the model was trained with, or one that does not fit the model.
    """
    settings = birq.relabelling
    if settings.teacher is None:
        return None
    if settings.teacher.startswith(PACKED):
        path = Path(AppState().nemo_file_folder or "", settings.teacher.removeprefix(PACKED))
        if not path.is_file():
            raise FileNotFoundError(
                f"model.{KEY}={settings.teacher}: this .nemo does not hold its teacher. It was saved again by a class that "
                "does not know teachers; use the file that training wrote"
            )
    else:
        path = Path(settings.teacher).expanduser().absolute()
        settings.teacher = str(path)  # a run may be resumed, and a checkpoint opened, from another folder
    file = read_teacher_file(path)
    if settings.checksum not in (None, file.checksum):
        raise ValueError(
            f"teacher {path} has the checksum {file.checksum}, the model was trained with {settings.checksum}: it would get "
            "other labels. Put the old file back, or start a new model"
        )
    check_fits(file, cfg, birq, path)
    settings.checksum = file.checksum
    return Teacher(file)


def check_fits(file: TeacherFile, cfg: DictConfig, birq: BiRQConfig, path: Path) -> None:
    """
    Raises:
        ValueError: the teacher has another number of clusters than the model has codes, or labels other features or frames.
    """
    clusters, codes = len(file.centroids), birq.quantizer.num_codes
    if clusters != codes:
        raise ValueError(
            f"teacher {path} has {clusters} clusters, model.birq.quantizer.num_codes={codes}: set "
            f"model.birq.quantizer.num_codes={clusters}, or cluster again with --clusters {codes}"
        )
    own = OmegaConf.to_container(cfg.preprocessor, resolve=True)
    keys = sorted((own.keys() | file.preprocessor.keys()) - set(NOT_COMPARED))
    pairs = {f"preprocessor.{key}": (file.preprocessor.get(key), own.get(key)) for key in keys}
    pairs["encoder.subsampling_factor"] = (file.encoder["subsampling_factor"], cfg.encoder.subsampling_factor)
    differ = [f"model.{key}={mine} (teacher: {its})" for key, (its, mine) in pairs.items() if mine != its]
    if differ:
        raise ValueError(
            f"teacher {path} labels other features than this model reads: {', '.join(differ)}. Give the model the teacher's "
            "values, or make a teacher from a model with these"
        )


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
