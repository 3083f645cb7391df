"""Command ``birq finetune``: trains a recognizer from a pretrained encoder, and scores it."""

from pathlib import Path
from typing import TYPE_CHECKING

from nemo_birq.command_line.command import errors_in_one_line
from nemo_birq.command_line.hydra_command import hydra_command
from nemo_birq.command_line.options import TRAIN_DATA_KEYS
from nemo_birq.utils.files import write_json
from nemo_birq.utils.progress import ProgressBars
from nemo_birq.utils.terminal import Terminal

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel
    from omegaconf import DictConfig

    from nemo_birq.scoring.eval_sets import TestSet

KEYS = {
    "name": "name of the run",
    "init_from_nemo_model": ".nemo or .ckpt of a pretraining or a recognizer, of BiRQ or NeMo, whose encoder is taken",
    "from_scratch": "true: train the architecture of that file without its weights, as a baseline",
    "test_manifests": "[MANIFEST,NAME=MANIFEST,...] of audio files; scored at the end",
    "allow_unknown_symbols": "true: dev and test sets may have characters outside of the vocabulary; the log counts them",
    "fresh_layers": "number of top layers of the encoder that start from random weights",
    "freeze_encoder": "share of the training, or number of steps, in which the encoder is frozen",
    "build_tokenizer.vocab_size": "size of a tokenizer trained on the training texts; for *_bpe without model.tokenizer.dir",
    "exp_manager.exp_dir": "folder in which each run creates its folder (nemo_experiments)",
    **TRAIN_DATA_KEYS,
    "model.train_ds.batch_duration": "seconds of audio in a batch of one GPU; as many as fit into its memory",
    "model.validation_ds.manifest_filepath": "manifest of the validation set",
    "model.optim.lr": "learning rate of the head",
    "model.optim_param_groups.encoder.lr": "learning rate of the encoder",
    "trainer.max_epochs": "number of epochs; or trainer.max_steps",
    "trainer.devices": "number of GPUs, or auto",
    "trainer.precision": "bf16-mixed; on a CPU 32",
}
console = Terminal()


def score_all(model: "ASRModel", tests: "list[TestSet]", nemo: Path, folder: Path) -> None:
    """Transcribes the test sets, writes ``<name>.json`` for each, and prints a table."""
    from nemo_birq.scoring.normalization import STEPS
    from nemo_birq.scoring.results import score
    from nemo_birq.scoring.tables import score_table

    results = {}
    with ProgressBars(console=console, transient=True) as progress:
        for test in tests:
            advance = progress.start(test.name, len(test.lines))
            results[test.name] = {"model": str(nemo), "name": test.name} | score(model, test.manifest, advance=advance)
            write_json(folder / f"{test.name}.json", results[test.name])
    console.print(score_table(results, f"{nemo.name}\ngreedy decoding"))
    console.print(f"Normalization of references and hypotheses: {'; '.join(STEPS['default'])}.")
    console.print(f"scores      {folder}", soft_wrap=True)


@hydra_command("finetune", folder="finetune", config_name="ctc_char", keys=KEYS)
def finetune(cfg: "DictConfig") -> None:
    """Fine-tunes a pretrained encoder to a speech recognizer of NeMo's classes, and scores it on test sets.

        birq finetune --config-name=ctc_char \\
            init_from_nemo_model=nemo_experiments/BiRQ-Conformer-Large/checkpoints/BiRQ-Conformer-Large.nemo \\
            model.train_ds.manifest_filepath=/data/train.json model.validation_ds.manifest_filepath=/data/dev.json \\
            test_manifests=[/data/test-clean.json,/data/test-other.json]

    The results are a .nemo and a table of WER and CER. See docs/finetuning.md for details.
    """
    import lightning.pytorch as pl

    from nemo_birq.finetuning.preparation import prepare
    from nemo_birq.finetuning.training import build_recognizer, build_trainer, save_best
    from nemo_birq.runs.experiment import experiment
    from nemo_birq.runs.resuming import prepare_resuming

    with errors_in_one_line():
        pretrained, tests = prepare(cfg)
        pl.seed_everything(cfg.seed, workers=True)
        trainer, num_steps = build_trainer(cfg)
        with experiment(trainer, cfg.exp_manager, cfg.get("checkpoint_minutes")) as run:
            model = build_recognizer(cfg, trainer, num_steps, pretrained)
            prepare_resuming(model, trainer, cfg.get("resume_with_changed"))
            trainer.fit(model)
            run.end_if_signalled()
            nemo = save_best(model, trainer, run.folder, cfg.name)
            if tests and trainer.is_global_zero:
                model.to(trainer.strategy.root_device)  # Lightning has put it on the CPU
                score_all(model, tests, nemo, run.folder / "scores")
    if not trainer.is_global_zero:
        return
    console.print(f"recognizer  {nemo}", soft_wrap=True)
