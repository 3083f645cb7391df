"""Fine-tunes a pretrained encoder into a speech recognizer of NeMo's own classes, and scores it on test sets.

    python scripts/speech_to_text_finetune.py --config-name=ctc_char \
        init_from_nemo_model=nemo_experiments/BiRQ-Conformer-Large/checkpoints/BiRQ-Conformer-Large.nemo \
        model.train_ds.manifest_filepath=/data/train.json model.validation_ds.manifest_filepath=/data/dev.json \
        test_manifests=[/data/test-clean.json,/data/test-other.json]

Configurations in conf/finetune: ctc_char, ctc_bpe, rnnt_bpe, hybrid_rnnt_ctc_bpe. from_scratch=true trains the same
architecture without the pretrained weights. docs/finetuning.md has the rest.
"""

from pathlib import Path

import lightning.pytorch as pl
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig
from rich.console import Console

from nemo_birq.finetuning.data import as_list, short_names
from nemo_birq.finetuning.preparation import prepare
from nemo_birq.finetuning.training import build_recognizer, build_trainer, save_best
from nemo_birq.scoring import score, write_score
from nemo_birq.scoring.tables import score_table


@hydra_runner(config_path="../conf/finetune", config_name="ctc_char")
def main(cfg: DictConfig) -> None:
    pretrained = prepare(cfg)
    pl.seed_everything(cfg.seed, workers=True)
    trainer, num_steps = build_trainer(cfg)
    folder = Path(exp_manager(trainer, cfg.exp_manager))
    model = build_recognizer(cfg, trainer, num_steps, pretrained)
    trainer.fit(model)
    nemo = save_best(model, trainer, folder, cfg.name)
    if not trainer.is_global_zero:
        return
    tests = as_list(cfg.test_manifests)
    results = {name: score(model, manifest) for name, manifest in zip(short_names(tests), tests, strict=True)}
    for name, result in results.items():
        write_score(result, folder / "scores" / f"{name}.json")
    console = Console()
    if results:
        console.print(score_table(results, "greedy decoding"))
        console.print(f"scores      {folder / 'scores'}", soft_wrap=True)
    console.print(f"recognizer  {nemo}", soft_wrap=True)


if __name__ == "__main__":
    main()
