"""Pretrains a speech encoder on unlabelled audio.

    python scripts/speech_pre_training.py --config-name=birq_conformer_large \
        model.train_ds.manifest_filepath=/data/sharded_manifests/manifest__OP_0..511_CL_.json \
        model.train_ds.tarred_audio_filepaths=/data/audio__OP_0..511_CL_.tar \
        model.validation_ds.manifest_filepath=/data/dev.json \
        trainer.devices=8 trainer.precision=bf16-mixed

Any key of the configuration can be set this way; conf/ holds them. The same command again resumes. The last line of the
log names the .nemo that training ends with.
"""

import lightning.pytorch as pl
from nemo.core.config import hydra_runner
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import DictConfig, OmegaConf

from nemo_birq import BiRQModel


@hydra_runner(config_path="../conf", config_name="birq_conformer_large")
def main(cfg: DictConfig) -> None:
    logging.info(f"Hydra config: {OmegaConf.to_yaml(cfg)}")
    pl.seed_everything(cfg.seed, workers=True)
    trainer = pl.Trainer(**resolve_trainer_cfg(cfg.trainer))
    exp_manager(trainer, cfg.get("exp_manager", None))
    model = BiRQModel(cfg=cfg.model, trainer=trainer)
    model.maybe_init_from_pretrained_checkpoint(cfg)
    trainer.fit(model)


if __name__ == "__main__":
    main()
