"""Compares methods of pretraining by the phones that linear classifiers read from their frozen layers.

    python scripts/experiment.py --budget cpu_probes --corpus speechocean762_phones=phones --out runs
    python -m benchmarks.probed_phones runs/cpu_probes/speechocean762_phones phones --alignments aligned --out frames.json

With ``--alignments``, a folder with pretrain.ctm, dev.ctm and test.ctm (benchmarks/aligned_phones.py), the classifiers name
the phone of each frame; without, they read the phones of an utterance with CTC. RUNS has a folder METHOD_seedK for each
encoder, as the first command writes them. ``birq probe`` reads each of them; results of the same number of epochs are not
made again. Only the first method is probed with the untrained encoder and the log-mel features. The json file has the rates
and losses of all seeds, and the paired differences to the first method with 95 % t intervals over seeds. Methods that are
already in the file and are not named stay in it.
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
SETS = {"train": "pretrain", "dev": "dev", "test": "test"}
MEASURES = ("loss", "error")
console = Terminal()


def probe(folder: Path, corpus: Path, alignments: Path | None, seed: int, epochs: int, baselines: bool) -> dict:
    """Returns the results of ``birq probe`` for the encoder of a run."""
    path = folder / f"probe_{'frames' if alignments else 'ctc'}_pretrain.json"
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8"))["training"]["epochs"] != epochs:
        sets = [f"--{name}={corpus / file}.jsonl" for name, file in SETS.items()]
        if alignments:
            sets += ["--alignments", *(str(alignments / f"{file}.ctm") for file in SETS.values())]
        command = [sys.executable, str(ROOT / "scripts" / "probe.py"), str(folder / ENCODER), *sets, f"--seed={seed}",
                   f"--epochs={epochs}", f"--out={folder}"]  # fmt: skip
        subprocess.run([*command, *([] if baselines else ["--no-baselines"])], check=True, stdout=subprocess.DEVNULL)
    return json.loads(path.read_text(encoding="utf-8"))


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


def kept(out: Path, task: str, epochs: int) -> dict[str, dict[int, dict]]:
    """Returns the methods of an existing file. Raises ``click.UsageError`` if its numbers cannot be compared."""
    if not out.is_file():
        return {}
    saved = json.loads(out.read_text(encoding="utf-8"))
    if (saved["task"], saved["epochs"]) != (task, epochs):
        raise click.UsageError(f"{out} has another task or number of epochs. Name another file with --out.")
    return {name: {int(seed): rows for seed, rows in seeds.items()} for name, seeds in saved["methods"].items()}


def compare(found: dict[str, dict[int, dict]]) -> dict[str, dict]:
    """Returns the differences of the weighted sums to that of the first method: its untrained encoder, and other methods."""
    first, *others = found
    summed, untrained = "pretrained, weighted sum", "untrained, weighted sum"
    compared = {}
    for name, method, row in [("untrained", first, untrained), *((name, name, summed) for name in others)]:
        seeds = sorted(set(found[method]) & set(found[first]))
        if not seeds:
            continue
        compared[name] = {"seeds": seeds}
        for measure in MEASURES:
            values, reference = (
                [found[key][seed][kind][measure] for seed in seeds] for key, kind in ((method, row), (first, summed))
            )
            compared[name][measure] = difference(values, reference)
    return compared


def show(differences: dict[str, dict], reference: str) -> None:
    """Prints the differences."""
    table = Table(title=f"Difference to {reference}, with 95 % t intervals", title_justify="left")
    for column in ("", "seeds", "loss, nats", "error rate, points"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in differences.items():
        cells = [name, str(len(row["seeds"]))]
        for measure, factor, form in (("loss", 1, "{:+.3f}"), ("error", 100, "{:+.1f}")):
            interval = row[measure]["t_interval"]
            ends = " to ".join(form.format(factor * end) for end in interval) if interval else "one seed"
            cells.append(f"{form.format(factor * row[measure]['mean'])} ({ends})")
        table.add_row(*cells)
    console.print(table)


@click.command(help=__doc__)
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("corpus", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--alignments", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of CTM files.")
@click.option(
    "--methods", default="best_rq,birq_tracked", show_default=True, help="Methods; the first of the file is the reference."
)
@click.option("--epochs", type=int, default=30, show_default=True, help="Epochs of the probes.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file for the numbers.")
def main(runs: Path, corpus: Path, alignments: Path | None, methods: str, epochs: int, out: Path) -> None:
    task = "phone of each frame" if alignments else "phones, CTC"
    found = kept(out, task, epochs)
    for name in methods.split(","):
        found[name] = {}
        for folder in sorted(runs.glob(f"{name}_seed*")):
            if not (folder / ENCODER).is_file():
                continue
            seed = int(re.search(r"\d+$", folder.name)[0])
            probed = probe(folder, corpus, alignments, seed, epochs, baselines=name == next(iter(found)))
            found[name][seed] = rows_by_name(probed["rows"])
            losses = ", ".join(f"{row} {value['loss']:.3f}" for row, value in found[name][seed].items())
            console.print(f"{name}, seed {seed}: {losses}")
    differences = compare(found)
    described = {"command": "python -m benchmarks.probed_phones", "task": task, "epochs": epochs,
                 "error_without_input": probed["constant_error"]}  # fmt: skip
    write_json(out, described | {"methods": found, "differences": differences})
    show(differences, next(iter(found)))


if __name__ == "__main__":
    main()
