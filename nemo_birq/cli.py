"""The command ``birq``, with a subcommand for everything that needs no checkout of the repository.

The table below maps each subcommand to the function that implements it, beside the code that it runs. The function is
imported when the user chooses it, so ``birq --help`` imports neither torch nor NeMo. ``scripts/`` has a script for each.

All subcommands name the same parameter in the same way (nemo_birq/command_line/options.py defines the shared ones):

    MODEL                 .nemo or .ckpt, the first argument
    DATA                  manifest, pattern of sharded manifests, or folder of shards, the second argument
    --tars                tar files, if DATA is a pattern of sharded manifests
    --out                 file or folder to write (export: the second argument)
    --alignments          CTM file, or folder of TextGrid files
    --hours               hours of audio to use
    --layer, --layers     one layer, or several such as 4,7; layers count from 1
    --batch-seconds       seconds of audio in a batch
    --seed, --workers     random seed, number of worker processes

Spellings of earlier versions are accepted but not listed: ``--manifest`` for DATA, ``--tarred-audio`` for ``--tars``.
``pretrain``, ``finetune``, ``check-labels`` and ``untrained-model`` use Hydra's ``key=value`` instead.
"""

from importlib import import_module
from typing import Any

import click

from nemo_birq import __version__
from nemo_birq.command_line.command import SETTINGS, interruptible

COMMANDS = {
    "make-shards": ("nemo_birq.data.shards.build_command:make_shards", "Build tar shards from audio files."),
    "verify-shards": ("nemo_birq.data.shards.verify_command:verify_shards", "Check tar shards."),
    "check-labels": ("nemo_birq.evaluation.preflight.command:check_labels", "Check the labels of data before training."),
    "pretrain": ("nemo_birq.pretraining.command:pretrain", "Pretrain a speech encoder."),
    "untrained-model": ("nemo_birq.pretraining.command:untrained_model", "Write the untrained model of a configuration."),
    "report": ("nemo_birq.report.command:report", "Write one HTML page about one or more runs."),
    "label-quality": ("nemo_birq.evaluation.label_quality.command:label_quality", "Compare a model's labels with phones."),
    "label-quality-over-training": (
        "nemo_birq.evaluation.label_quality.over_training_command:label_quality_over_training",
        "Compare the labels of every checkpoint with phones.",
    ),
    "show-utterance": (
        "nemo_birq.evaluation.label_quality.utterance_command:show_utterance",
        "Draw labels and predictions of one utterance.",
    ),
    "probe": ("nemo_birq.evaluation.probing.command:probe", "Train linear classifiers on a frozen encoder."),
    "compare-encoders": (
        "nemo_birq.evaluation.encoder_comparison.command:compare_encoders",
        "Compare frozen encoders by ABX and linear classifiers.",
    ),
    "extract-features": ("nemo_birq.extraction.features_command:extract_features", "Write the outputs of encoder layers."),
    "extract-labels": ("nemo_birq.extraction.labels_command:extract_labels", "Write anchor or enhanced labels."),
    "cluster-labels": ("nemo_birq.extraction.clustering_command:cluster_labels", "Make a k-means teacher for relabelling."),
    "finetune": ("nemo_birq.finetuning.command:finetune", "Fine-tune an encoder to a speech recognizer."),
    "score": ("nemo_birq.scoring.command:score", "Measure the error rates of a recognizer."),
    "compare-scores": ("nemo_birq.scoring.comparison_command:compare_scores", "Compare two recognizers on one test set."),
    "estimate-ngram": ("nemo_birq.scoring.ngram_command:estimate_ngram", "Estimate an n-gram language model."),
    "average": ("nemo_birq.export.average_command:average", "Average the weights of several checkpoints."),
    "export": ("nemo_birq.export.command:export", "Export an encoder: .nemo, ONNX, TorchScript, transformers."),
}
"""Import path and help line of each subcommand, in the order in which a user needs them."""


class LazyGroup(click.Group):
    """A group that imports a subcommand only when the user chooses it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, function = COMMANDS[name][0].partition(":")
        return getattr(import_module(module), function)

    def invoke(self, ctx: click.Context) -> Any:
        with interruptible():  # imports take seconds
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings=SETTINGS)
@click.version_option(__version__, "--version", prog_name="birq", message="%(prog)s %(version)s")
def main() -> None:
    """Pretrain speech encoders with BiRQ, evaluate them, and fine-tune them to speech recognizers."""


if __name__ == "__main__":
    main(prog_name="birq")
