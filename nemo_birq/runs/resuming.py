"""The function that a training command calls so that a resumed run follows its configuration."""

from collections.abc import Collection

from lightning.pytorch import Trainer
from nemo.core import ModelPT

from nemo_birq.runs.changed_settings import TrainerSettings, check_changed_settings
from nemo_birq.runs.optimizer_settings import OptimizerSettings
from nemo_birq.runs.restoring import Restoring


def prepare_resuming(model: ModelPT, trainer: Trainer, allowed: Collection[str] | None = None) -> None:
    """Checks the settings against those of the checkpoint, if there is one, and adds the callbacks of this package.

    Must be called after the model is built and NeMo's ``exp_manager`` has found the checkpoint, before ``trainer.fit``.

    Args:
        model: model to train.
        trainer: trainer of the model.
        allowed: value of ``resume_with_changed``.

    Raises:
        ValueError: as ``changed_settings.check_changed_settings``.
    """
    if trainer.ckpt_path:
        check_changed_settings(model, trainer, allowed or ())
    trainer.callbacks += [TrainerSettings(), OptimizerSettings(), Restoring()]
