"""The one call that a training command makes so that a resumed run is the one that its configuration describes."""

from collections.abc import Collection

from lightning.pytorch import Trainer
from nemo.core import ModelPT

from nemo_birq.runs.changed_settings import TrainerSettings, check_changed_settings
from nemo_birq.runs.optimizer_settings import OptimizerSettings


def prepare_resuming(model: ModelPT, trainer: Trainer, allowed: Collection[str] | None = None) -> None:
    """Checks the settings against those of the checkpoint, if there is one, and adds the callbacks of this package.

    Call it when the model is built and NeMo's ``exp_manager`` has found the checkpoint, before ``trainer.fit``.

    Args:
        model: to be trained.
        trainer: that trains it.
        allowed: ``resume_with_changed`` of the configuration.

    Raises:
        ValueError: as ``changed_settings.check_changed_settings``.
    """
    if trainer.ckpt_path:
        check_changed_settings(model, trainer, allowed or ())
    trainer.callbacks += [TrainerSettings(), OptimizerSettings()]
