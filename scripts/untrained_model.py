"""Writes the model that pretraining with the same arguments would begin with: a baseline with equal initial weights.

    python scripts/untrained_model.py --config-name=birq_conformer_tiny name=untrained seed=0 \
        model.train_ds.manifest_filepath=/data/train.json model.validation_ds.manifest_filepath=/data/dev.json

takes all arguments of scripts/speech_pre_training.py, also those of data: which random numbers the weights get follows from
all that is built before them. Writes <exp_manager.exp_dir>/<name>/<name>.nemo.
"""

from pathlib import Path

import lightning.pytorch as pl
from nemo.core.config import hydra_runner
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import DictConfig

from nemo_birq import BiRQModel


@hydra_runner(config_path="../conf", config_name="birq_conformer_large")
def main(cfg: DictConfig) -> None:
    path = Path(cfg.exp_manager.exp_dir or "nemo_experiments") / cfg.name / f"{cfg.name}.nemo"
    if path.exists():
        raise ValueError(f"{path} exists; give another name=")
    pl.seed_everything(cfg.seed, workers=True)
    model = BiRQModel(cfg=cfg.model, trainer=pl.Trainer(**resolve_trainer_cfg(cfg.trainer)))
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save_to(str(path))
    print(path)


if __name__ == "__main__":
    main()
