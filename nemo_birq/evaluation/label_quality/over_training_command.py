"""``birq label-quality-over-training``, which compares the labels of every checkpoint of a pretraining with phones."""

from pathlib import Path
from typing import Any

from rich.table import Table

from nemo_birq.command_line import options
from nemo_birq.command_line.command import command, command_text
from nemo_birq.evaluation.label_quality.command import NAMES
from nemo_birq.utils.terminal import Terminal

FILE = "label_quality_over_training.json"
console = Terminal()


def table(evaluations: list[dict[str, Any]], num_utterances: int) -> Table:
    """Returns a row for each step and kind of labels, and for each layer of the last step."""
    found = Table(title=f"Labels against phones, {num_utterances} utterances", header_style="bold", pad_edge=False)
    for column in ("step", "labels", "layer", "PNMI", "by chance", "phone purity", "cluster purity", "codes", "entropy"):
        found.add_column(column, justify="left" if column == "labels" else "right")
    for evaluation in evaluations:
        last = evaluation is evaluations[-1]
        for row in evaluation["rows"]:
            if row["labels"] == "layer" and row["layer"] != evaluation["layer"] and not last:
                continue
            numbers = (f"{row[key]:.3f}" for key in ("pnmi", "pnmi_by_chance", "phone_purity", "cluster_purity"))
            layer = "" if row["layer"] is None else f"{row['layer']}{' = k' if row['layer'] == evaluation['layer'] else ''}"
            entropy, codes = f"{row['entropy']:.2f}", str(row["codes_used"])
            found.add_row(str(evaluation["step"]), NAMES[row["labels"]], layer, *numbers, codes, entropy)
        found.add_section()
    return found


@command("label-quality-over-training")
@options.model_argument("folder of a pretraining, or the .nemo that it ended with")
@options.data_argument()
@options.tars_option()
@options.alignments_option(required=True)
@options.hours_option()
@options.out_option(f"JSON file; default: {FILE} beside the checkpoints, where birq report finds it.")
@options.option("--no-kmeans", is_flag=True, help="Leave out k-means of the last model, the slow part for large models.")
@options.option("--report", type=options.PATH, metavar="FOLDER", help="Also write the report of the run to this folder.")
def label_quality_over_training(
    model: Path, data: str, tars: str | None, alignments: Path, hours: float | None, out: Path | None, no_kmeans: bool,
    report: Path | None,
) -> None:  # fmt: skip
    """Compares labels with phones at every checkpoint that a pretraining has kept, and draws them in its report.

        birq label-quality-over-training nemo_experiments/<name> tarred_manifests/validation/validation.json \\
            --alignments tarred_manifests/validation/phones.ctm --report report

    To keep all checkpoints of a training, set exp_manager.checkpoint_callback_params.save_top_k=-1. The command also works
    while the run is training. K-means of each layer is computed for the last model only. birq label-quality has more details
    of a single model.
    """
    from nemo.utils import logging

    from nemo_birq.evaluation.label_quality.over_training import evaluate_run, models_of
    from nemo_birq.evaluation.label_quality.utterances import read_utterances
    from nemo_birq.report.experiment_folder import read_run
    from nemo_birq.report.page import write_report
    from nemo_birq.utils.files import write_json
    from nemo_birq.utils.progress import ProgressBars

    if out and report:
        raise ValueError(f"--out {out} and --report {report} exclude each other: the report reads the file beside the run")
    folder = models_of(model)[-1].parent
    run, path = model if model.is_dir() else folder.parent, out or folder / FILE
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out {path}: its folder does not exist")
    if report:
        read_run(run)  # raises its errors before the long work
    logging.setLevel(logging.WARNING)
    utterances = read_utterances(data, alignments, hours, tars)
    with ProgressBars(console=console, transient=True) as progress:
        evaluations = evaluate_run(model, utterances, progress, not no_kmeans)
    write_json(path, {"command": command_text(), "evaluations": evaluations})
    console.print(table(evaluations, len(utterances.lines)))
    console.print(str(path), soft_wrap=True)
    if report:
        page = write_report([read_run(run)], report)
        console.print(str(page), soft_wrap=True)
