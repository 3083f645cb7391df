"""Small configurations and recognizers of fine-tuning."""

from pathlib import Path

import lightning.pytorch as pl
from hydra import compose, initialize_config_dir
from nemo.collections.asr.models import ASRModel
from omegaconf import DictConfig

from nemo_birq.finetuning.preparation import prepare
from nemo_birq.finetuning.training import build_recognizer, build_trainer
from tests.helpers.paths import CORPUS, ROOT

TEST = f"{CORPUS}/test/test.json"
SMALL = [
    f"model.train_ds.manifest_filepath={CORPUS}/validation/validation.json",
    f"model.validation_ds.manifest_filepath={TEST}", "model.train_ds.num_workers=0", "model.validation_ds.num_workers=0",
    "model.train_ds.batch_duration=15", "model.train_ds.num_buckets=2", "model.train_ds.pin_memory=false",
    "model.validation_ds.pin_memory=false", "trainer.precision=32", "trainer.accelerator=cpu", "trainer.devices=1",
    "trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false", "trainer.num_sanity_val_steps=0",
]  # fmt: skip


def config(name: str, nemo: Path, folder: Path, *overrides: str) -> DictConfig:
    small = list(SMALL)
    if name != "ctc_char":
        small += ["build_tokenizer.vocab_size=64", "name=bpe"]
    if "rnnt" in name:
        small += ["model.model_defaults.pred_hidden=16", "model.model_defaults.joint_hidden=16"]
    with initialize_config_dir(str(ROOT / "conf" / "finetune"), version_base=None):
        return compose(name, [*small, f"init_from_nemo_model={nemo}", f"exp_manager.exp_dir={folder}", *overrides])


def build(cfg: DictConfig) -> tuple[ASRModel, pl.Trainer]:
    path, _ = prepare(cfg)
    trainer, num_steps = build_trainer(cfg)
    return build_recognizer(cfg, trainer, num_steps, path), trainer
