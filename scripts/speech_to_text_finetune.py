"""Fine-tunes a pretrained encoder into a speech recognizer of NeMo's own classes, and scores it on test sets.

    python scripts/speech_to_text_finetune.py --config-name=ctc_char \
        init_from_nemo_model=nemo_experiments/BiRQ-Conformer-Large/checkpoints/BiRQ-Conformer-Large.nemo \
        model.train_ds.manifest_filepath=/data/train.json model.validation_ds.manifest_filepath=/data/dev.json \
        test_manifests=[/data/test-clean.json,/data/test-other.json]

Configurations in conf/finetune: ctc_char, ctc_bpe, rnnt_bpe, hybrid_rnnt_ctc_bpe. from_scratch=true trains the same
architecture without the pretrained weights. docs/finetuning.md has the rest.
"""

from functools import partial
from pathlib import Path

import lightning.pytorch as pl
from nemo.collections.asr.models import ASRModel
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from nemo_birq.finetuning.preparation import prepare
from nemo_birq.finetuning.training import build_recognizer, build_trainer, save_best
from nemo_birq.scoring import score
from nemo_birq.scoring.eval_sets import TestSet
from nemo_birq.scoring.normalization import STEPS
from nemo_birq.scoring.tables import score_table
from nemo_birq.utils.files import write_json

console = Console()


def score_all(model: ASRModel, tests: list[TestSet], nemo: Path, folder: Path) -> None:
    """Transcribes the test sets, writes ``<name>.json`` of each, and prints the table."""
    results = {}
    with Progress(console=console, transient=True) as bar:
        for test in tests:
            advance = partial(bar.advance, bar.add_task(test.name, total=len(test.lines)))
            results[test.name] = {"model": str(nemo), "name": test.name} | score(model, test.manifest, advance=advance)
            write_json(folder / f"{test.name}.json", results[test.name])
    console.print(score_table(results, f"{nemo.name}\ngreedy decoding"))
    console.print(f"References and hypotheses alike: {'; '.join(STEPS['default'])}.", highlight=False)
    console.print(f"scores      {folder}", soft_wrap=True)


@hydra_runner(config_path="../conf/finetune", config_name="ctc_char")
def main(cfg: DictConfig) -> None:
    pretrained, tests = prepare(cfg)
    pl.seed_everything(cfg.seed, workers=True)
    trainer, num_steps = build_trainer(cfg)
    folder = Path(exp_manager(trainer, cfg.exp_manager))
    model = build_recognizer(cfg, trainer, num_steps, pretrained)
    trainer.fit(model)
    nemo = save_best(model, trainer, folder, cfg.name)
    if not trainer.is_global_zero:
        return
    if tests:
        model.to(trainer.strategy.root_device)  # Lightning has put it on the CPU
        score_all(model, tests, nemo, folder / "scores")
    console.print(f"recognizer  {nemo}", soft_wrap=True)


if __name__ == "__main__":
    main()
