"""Fine-tunes a pretrained encoder with CTC, through NeMo's own classes, and scores it on a test set.

    python scripts/speech_to_text_finetune.py \
        pretrained=nemo_experiments/BiRQ-Conformer-Large/checkpoints/BiRQ-Conformer-Large.nemo \
        model.train_ds.manifest_filepath=/data/train.json model.validation_ds.manifest_filepath=/data/dev.json \
        model.test_manifest=/data/test.json

from_scratch=true trains the same architecture without the pretrained weights. conf/finetune/ holds the configurations.
"""

from pathlib import Path

import lightning.pytorch as pl
from nemo.collections.asr.models import EncDecCTCModel
from nemo.core.config import hydra_runner
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import DictConfig

from nemo_birq.finetuning import check_encoder, take_architecture
from nemo_birq.scoring import check_test_manifest, score, write_score


@hydra_runner(config_path="../conf/finetune", config_name="ctc_char")
def main(cfg: DictConfig) -> None:
    take_architecture(cfg.model, cfg.pretrained)
    if cfg.model.test_manifest:
        check_test_manifest(cfg.model.test_manifest)  # now, not after hours of training
    pl.seed_everything(cfg.seed, workers=True)
    trainer = pl.Trainer(**resolve_trainer_cfg(cfg.trainer))
    folder = exp_manager(trainer, cfg.get("exp_manager", None))
    model = EncDecCTCModel(cfg=cfg.model, trainer=trainer)
    if not cfg.from_scratch:
        model.maybe_init_from_pretrained_checkpoint(DictConfig({"init_from_nemo_model": cfg.pretrained}))
        logging.info(f"{check_encoder(model, cfg.pretrained)} encoder tensors are those of {cfg.pretrained}")
    trainer.fit(model)
    if cfg.model.test_manifest:
        result = score(model, cfg.model.test_manifest)
        write_score(result, Path(folder) / "test_score.json")
        for utterance in result["utterances"][:5]:
            logging.info(f"said: {utterance['text']} | heard: {utterance['hypothesis']}")
        logging.info(f"{cfg.model.test_manifest}: WER {result['wer']:.2%}, CER {result['cer']:.2%} ({folder})")


if __name__ == "__main__":
    main()
