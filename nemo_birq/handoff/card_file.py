"""How a BiRQ model carries its card: packed into every ``.nemo``, beside the last one, and sent to the Hugging Face hub."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import ModelCard
from nemo.core import ModelPT
from nemo.utils import logging
from omegaconf import OmegaConf, open_dict

from nemo_birq.handoff.model_card import build_card
from nemo_birq.handoff.training_record import record_training

ARTIFACT = "card.file"


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
