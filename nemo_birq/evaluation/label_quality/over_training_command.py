"""``birq label-quality-over-training``: the labels of every checkpoint of a pretraining against phones."""

from pathlib import Path

from rich.table import Table

from nemo_birq.command_line import options
from nemo_birq.command_line.command import command
from nemo_birq.utils.terminal import Terminal

console = Terminal()


def table(rows: list[dict], num_utterances: int) -> Table:
    """Returns a row for each checkpoint, kind of labels and layer."""
    found = Table(title=f"Labels against phones, {num_utterances} utterances", header_style="bold")
    for column in ("step", "labels", "layer", "PNMI", "by chance", "phone purity", "cluster purity", "codes", "entropy"):
        found.add_column(column, justify="left" if column == "labels" else "right")
    for row in rows:
        entropy = f"{row['entropy']:.2f}" if "entropy" in row else ""
        numbers = (f"{row[key]:.3f}" for key in ("pnmi", "pnmi_by_chance", "phone_purity", "cluster_purity"))
        found.add_row(
            str(row["step"]), row["labels"], str(row.get("layer", "")), *numbers, str(row["codes_used"]), entropy
        )  # fmt: skip
    return found


@command("label-quality-over-training")
@options.model_argument(".nemo that a pretraining ended with")
@options.data_argument()
@options.tars_option()
@options.alignments_option(required=True)
@options.hours_option()
@options.out_option("JSON file; without it labels_over_training.json beside the model.")
def label_quality_over_training(
    model: Path, data: str, tars: str | None, alignments: Path, hours: float | None, out: Path | None
) -> None:
    """Compares labels with phones at every checkpoint that a pretraining has kept.

        birq label-quality-over-training nemo_experiments/<name>/checkpoints/<name>.nemo \\
            tarred_manifests/validation/validation.json --alignments tarred_manifests/validation/phones.ctm

    Evaluates the checkpoints beside the .nemo (exp_manager.checkpoint_callback_params.save_top_k=-1 keeps all) and the .nemo
    itself, with k-means of each layer for the latter. birq label-quality tells more of a single one.
    """
    from nemo.utils import logging

    from nemo_birq.evaluation.label_quality.over_training import score_checkpoints
    from nemo_birq.evaluation.label_quality.utterances import read_utterances
    from nemo_birq.utils.files import write_json
    from nemo_birq.utils.progress import ProgressBars

    path = out or model.parent / "labels_over_training.json"
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out {path}: there is no such folder")
    logging.setLevel(logging.WARNING)
    utterances = read_utterances(data, alignments, hours, tars)
    with ProgressBars(console=console, transient=True) as progress:
        rows = score_checkpoints(model, utterances, progress)
    write_json(path, rows)
    console.print(table(rows, len(utterances.lines)))
    console.print(str(path), soft_wrap=True)
