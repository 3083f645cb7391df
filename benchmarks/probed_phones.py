"""Compares methods of pretraining by the phones that linear classifiers read from their frozen layers.

    python scripts/experiment.py --budget cpu_probes --corpus speechocean762_phones=phones --out runs
    python -m benchmarks.probed_phones runs/cpu_probes/speechocean762_phones phones --out docs/results/probed_phones.json

RUNS has a folder METHOD_seedK for each encoder, as the first command writes them. ``birq probe`` reads each of them; files
that exist are not made again. Only the first method is probed with the untrained encoder and the log-mel features. The json
file has the rates and losses of all seeds, and the paired differences to the first method with 95 % t intervals over seeds.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
from rich.table import Table
from scipy.stats import ttest_1samp

from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

ROOT = Path(__file__).parents[1]
ENCODER = "pretrain/checkpoints/pretrain.nemo"
RESULT = "probe_ctc_pretrain.json"
MEASURES = ("loss", "error")
console = Terminal()


def probe(folder: Path, corpus: Path, seed: int, epochs: int, baselines: bool) -> list[dict]:
    """Returns the rows of ``birq probe`` for the encoder of a run."""
    path = folder / RESULT
    if not path.is_file():
        sets = [f"--{name}={corpus / file}.jsonl" for name, file in
                (("train", "pretrain"), ("dev", "dev"), ("test", "test"))]  # fmt: skip
        command = [sys.executable, str(ROOT / "scripts" / "probe.py"), str(folder / ENCODER), *sets, f"--seed={seed}",
                   f"--epochs={epochs}", f"--out={folder}"]  # fmt: skip
        subprocess.run([*command, *([] if baselines else ["--no-baselines"])], check=True, stdout=subprocess.DEVNULL)
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def rows_by_name(rows: Iterable[dict]) -> dict[str, dict[str, float]]:
    """Returns loss and error by the name of the row, such as ``untrained, layer 1`` or ``pretrained, weighted sum``."""
    named = {}
    for row in rows:
        layer = "weighted sum" if row["layer_weights"] else "" if row["layer"] is None else f"layer {row['layer']}"
        named[", ".join(filter(None, (row["representation"], layer)))] = {measure: row[measure] for measure in MEASURES}
    return named


def difference(values: list[float], reference: list[float]) -> dict[str, float | list[float] | None]:
    """Returns the mean paired difference, with its 95 % t interval if there are several seeds."""
    found = np.subtract(values, reference)
    interval = None
    if len(found) > 1:
        limits = ttest_1samp(found, 0.0).confidence_interval(0.95)
        interval = [round(float(limits.low), 4), round(float(limits.high), 4)]
    return {"mean": round(float(found.mean()), 4), "t_interval": interval}


@click.command(help=__doc__)
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("corpus", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--methods", default="best_rq,birq_tracked,best_rq_refined_1", show_default=True, help="The first is compared to."
)
@click.option("--epochs", type=int, default=12, show_default=True, help="Epochs of the probes.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file for the numbers.")
def main(runs: Path, corpus: Path, methods: str, epochs: int, out: Path) -> None:
    names, found = methods.split(","), {}
    for name in names:
        folders = {
            int(re.search(r"\d+$", path.name)[0]): path for path in runs.glob(f"{name}_seed*") if (path / ENCODER).is_file()
        }
        found[name] = {}
        for seed, folder in sorted(folders.items()):
            found[name][seed] = rows_by_name(probe(folder, corpus, seed, epochs, baselines=name == names[0]))
            console.print(
                f"{name}, seed {seed}: "
                + ", ".join(f"{row} {value['loss']:.3f}" for row, value in found[name][seed].items())
            )
    differences = compare(found)
    write_json(
        out,
        {"command": "python -m benchmarks.probed_phones", "epochs": epochs, "methods": found, "differences": differences},
    )
    table = Table(title="Difference to " + names[0], title_justify="left")
    for column in ("", "seeds", "loss, nats", "95 % t interval", "PER, points", "95 % t interval"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in differences.items():
        loss, error = row["loss"], row["error"]
        limits = (
            [
                "{:+.3f} to {:+.3f}".format(*loss["t_interval"]),
                "{:+.1f} to {:+.1f}".format(*(100 * limit for limit in error["t_interval"])),
            ]
            if loss["t_interval"]
            else ["", ""]
        )
        table.add_row(name, str(row["seeds"]), f"{loss['mean']:+.3f}", limits[0], f"{100 * error['mean']:+.1f}", limits[1])
    console.print(table)


def compare(found: dict[str, dict[int, dict]]) -> dict[str, dict]:
    """Returns the differences of the weighted sums to that of the first method: its untrained encoder, and other methods."""
    first, *others = found
    summed = "pretrained, weighted sum"
    pairs = {f"untrained, {first}'s seeds": (first, "untrained, weighted sum")} | {name: (name, summed) for name in others}
    compared = {}
    for name, (method, row) in pairs.items():
        seeds = sorted(set(found[method]) & set(found[first]))
        if seeds:
            compared[name] = {"seeds": seeds} | {
                measure: difference([found[method][seed][row][measure] for seed in seeds],
                                    [found[first][seed][summed][measure] for seed in seeds])
                for measure in MEASURES
            }  # fmt: skip
    return compared


if __name__ == "__main__":
    main()
