"""Counts the operations (FLOP) and the memory of the paper's tables from tensor shapes, without a GPU.

    python benchmarks/paper_cost.py
    python benchmarks/paper_cost.py --utilization 8 12 20

The script counts operations and memory of a step of each model (step_counts.py) and compares them with measured steps
(docs/results/step_*.json, on a CPU). Hours are operations / (GPUs x peak x utilization). They are printed only for given
utilizations, which must be measured. The counts are in docs/results/paper_cost.json, the tables in docs/reproduce_paper.md.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from step_counts import count_step
from step_variants import ROOT, Setting

from nemo_birq.utils.files import write_json

GPUS = 8
PEAK = {"H100": 989e12, "A100": 312e12}  # FLOP/s, bfloat16 without sparsity, of the SXM modules
EVIDENCE = (
    "Published shares of an H100's peak: SpidR 9 to 11 %, compiled (arXiv 2512.20308; from 400,000 steps in 15 hours on 16 "
    "GPUs); a ViT with 22 M parameters 6.6 % eager and 22 % compiled (NVIDIA BioNeMo, nvSubquadratic). No published "
    "utilization of Conformer or FastConformer training was found. For eager training 8 to 12 % is the likely range."
)
SHARED_HEAD = ("model.birq.loss.head=shared",)
VARIANTS = {
    "BEST-RQ": ("model.birq.loss.enhanced_weight=0", *SHARED_HEAD),
    "BiRQ, objective=default": ("objective=default",),
    "BiRQ, objective=paper": ("objective=paper",),
    "relabelled": ("model.birq.labels.label_gradient=0", *SHARED_HEAD),  # label pass and one head; the teacher is frozen
    "CTC": (),  # the encoder alone
}
# Seconds of audio in a step, over all GPUs.
LIBRISPEECH_BATCH = 960 * 3600 / 4395  # 64 of 281,241 utterances
YODAS_BATCH = 5000 * 3600 * 128 / 900_000  # 128 of some 900,000 utterances
TUNING_BATCH = GPUS * 147  # batch_duration 240 under quadratic_duration 20


@dataclass(frozen=True)
class Stage:
    """One training of a row."""

    model: str
    """Name of a file in conf/, without ``birq_conformer_``."""
    variant: str
    hours: float
    """Hours of audio in an epoch."""
    epochs: int
    utterance_seconds: float
    batch_seconds: float
    """Seconds of audio in a step, over all GPUs."""
    layer: int | None = None
    """Layer k; None: that of the configuration."""

    @property
    def counted(self) -> tuple[str, str, float, int | None]:
        """Values on which the operations for a second of audio depend."""
        return self.model, self.variant, self.utterance_seconds, self.layer

    @property
    def audio_seconds(self) -> float:
        return 3600 * self.hours * self.epochs

    @property
    def steps(self) -> int:
        return round(self.audio_seconds / self.batch_seconds)


def table_rows() -> list[tuple[int, str, list[Stage]]]:
    """Lists the rows of tables 1 to 3, as docs/reproduce_paper.md trains them."""
    rows = []
    for number, model, hours, seconds, batch, labelled in (
        (2, "155m", 960, 15, LIBRISPEECH_BATCH, 100), (3, "275m", 5000, 30, YODAS_BATCH, 150),
    ):  # fmt: skip
        tuning = Stage(model, "CTC", labelled, 30, 15, TUNING_BATCH)
        rows.append((number, "supervised", [tuning]))
        for variant in ("BEST-RQ", "BiRQ, objective=paper", "BiRQ, objective=default"):
            rows.append((number, variant, [Stage(model, variant, hours, 100, seconds, batch), tuning]))
    tuning = Stage("137m", "CTC", 100, 30, 15, TUNING_BATCH)
    for name, variant in (("BEST-RQ, the first stage", "BEST-RQ"), ("offline relabelling, the second", "relabelled")):
        rows.append((1, name, [Stage("137m", variant, 960, 100, 15, LIBRISPEECH_BATCH), tuning]))
    for variant in ("BiRQ, objective=paper", "BiRQ, objective=default"):
        for epochs in (100, 300):
            row = f"{variant}, layer 3, {epochs} epochs"
            rows.append((1, row, [Stage("137m", variant, 960, epochs, 15, LIBRISPEECH_BATCH, layer=3), tuning]))
    return rows


def count_all(batch_seconds: float, progress: Progress) -> list[dict]:
    """Counts operations for a second of audio, and the memory of a batch of that many seconds, for all rows."""
    wanted = dict.fromkeys(stage.counted for _, _, stages in table_rows() for stage in stages)
    longest = [("155m", "BiRQ, objective=default", 35, None), ("155m", "BiRQ, objective=default", 5, None)]
    found = []
    for model, variant, seconds, layer in progress.track([*wanted, *longest], description="counting"):
        setting = Setting(f"birq_conformer_{model}", precision="bf16-mixed", batch_seconds=batch_seconds,
                          utterance_seconds=seconds, threads=1)  # fmt: skip
        overrides = (*VARIANTS[variant], *([] if layer is None else [f"model.birq.labels.layer={layer}"]))
        counts = count_step(setting, *overrides, encoder_only=variant == "CTC")
        found.append({
            "model": model, "variant": variant, "utterance_seconds": seconds, "layer": layer,
            "parameters": counts.parameters, "flop_per_second": counts.flop / batch_seconds, "fixed_bytes": counts.fixed,
            "ddp_bytes": 4 * counts.parameters, "saved_bytes": counts.saved,
        })  # fmt: skip
    return found


def check_all(progress: Progress) -> list[dict]:
    """Counts steps that benchmarks/step.py has measured, with the same masks."""
    found = []
    names = {"BEST-RQ": "BEST-RQ", "BiRQ": "BiRQ, objective=default", "BiRQ, label gradient": None}
    for file in progress.track(["step_birq_conformer_tiny_cpu_32", "step_middle_cpu_32"], description="checking"):
        measured = json.loads((ROOT / "docs" / "results" / f"{file}.json").read_text())
        keys = ("config", "batch_seconds", "utterance_seconds", "threads")
        setting = Setting(**{key: measured["setting"][key] for key in keys})
        floor = measured["variants"]["floor"]["flop"]
        for name, ours in names.items():
            overrides = VARIANTS[ours] if ours else ("model.birq.labels.label_gradient=1",)
            counts, step = count_step(setting, *overrides, mask_seed=3), measured["variants"][name]
            found.append({
                "config": setting.config, "variant": name, "batch_seconds": setting.batch_seconds,
                "flop": counts.flop, "measured_flop": step["flop"], "floor_flop": floor,
                "bytes": counts.fixed + counts.saved, "measured_bytes": step["peak"] - step["libraries"],
            })  # fmt: skip
    return found


def hours_on(flop: float, gpu: str, utilization: float) -> float:
    """Returns the hours on all GPUs at a utilization in percent of their peak."""
    return flop / (GPUS * PEAK[gpu] * utilization / 100) / 3600


def count_rows(counts: list[dict]) -> list[dict]:
    """Counts the operations of every row: of a step and of all steps of each stage, and of the row."""
    rate = {(c["model"], c["variant"], c["utterance_seconds"], c["layer"]): c["flop_per_second"] for c in counts}
    rows = []
    for number, name, stages in table_rows():
        counted = [
            asdict(stage) | {
                "steps": stage.steps, "flop_per_step": stage.batch_seconds * rate[stage.counted],
                "flop": stage.audio_seconds * rate[stage.counted],
            }
            for stage in stages
        ]  # fmt: skip
        flop = sum(stage["flop"] for stage in counted)
        rows.append({"table": number, "row": name, "model": stages[0].model, "stages": counted, "flop": flop})
    return rows


def memory_margin(checks: list[dict]) -> float:
    """Returns the largest ratio of measured to counted memory of the larger model; in the tiny one, libraries dominate."""
    return max(check["measured_bytes"] / check["bytes"] for check in checks if check["config"] == "middle")


def flop_table(rows: list[dict]) -> list[list[str]]:
    """Returns the cells of the table of operations, with its header first and the sum last."""
    cells = [["table", "row", "model", "steps", "10^12 FLOP a step", "10^18 FLOP in all"]]
    for row in rows:
        first = row["stages"][0]
        numbers = f"{first['steps']:,}", f"{first['flop_per_step'] / 1e12:.3g}", f"{row['flop'] / 1e18:.3g}"
        cells.append([str(row["table"]), row["row"], row["model"], *numbers])
    return [*cells, ["", "all", "", "", "", f"{sum(row['flop'] for row in rows) / 1e18:.3g}"]]


def hours_table(rows: list[dict], utilizations: list[float]) -> list[list[str]]:
    """Returns the cells of the table of hours at utilizations in percent, with its header first and the sum last."""
    columns = [(gpu, utilization) for gpu in PEAK for utilization in utilizations]
    cells = [["table", "row", *(f"hours, {GPUS} x {gpu}, {utilization:g} %" for gpu, utilization in columns)]]
    total = {"table": "", "row": "all", "flop": sum(row["flop"] for row in rows)}
    for row in (*rows, total):
        hours = (hours_on(row["flop"], *column) for column in columns)
        cells.append([str(row["table"]), row["row"], *(f"{value:.{0 if value >= 10 else 1}f}" for value in hours)])
    return cells


def memory_table(counts: list[dict], margin: float) -> list[list[str]]:
    """Returns the cells of the table of parameters, operations and memory, with its header first."""
    cells = [["model", "variant", "utterances (s)", "parameters", "GFLOP a second of audio", "model, gradients, AdamW (GB)",
              "buckets of DDP (GB)", "kept for backward (GB)", "sum (GB)", f"x {margin:.2f} (GB)"]]  # fmt: skip
    for c in counts:
        variant = c["variant"] + ("" if c["layer"] is None else f", layer {c['layer']}")
        parts = [c["fixed_bytes"], c["ddp_bytes"], c["saved_bytes"]]
        sizes = [f"{size / 1e9:.1f}" for size in (*parts, sum(parts), margin * sum(parts))]
        cells.append([c["model"], variant, f"{c['utterance_seconds']:g}", f"{c['parameters'] / 1e6:.1f} M",
                      f"{c['flop_per_second'] / 1e9:.1f}", *sizes])  # fmt: skip
    return cells


def check_table(checks: list[dict]) -> list[list[str]]:
    """Returns the cells of the comparison with measured steps, with its header first."""
    cells = [["model", "step", "GFLOP, counted", "of the step", "to the floor", "memory, counted (MB)", "measured (MB)",
              "measured / counted"]]  # fmt: skip
    for c in checks:
        ratio = c["measured_bytes"] / c["bytes"]
        cells.append([c["config"].removeprefix("birq_conformer_"), c["variant"], f"{c['flop'] / 1e9:.3f}",
                      f"{c['measured_flop'] / 1e9:.3f}", f"{c['flop'] / c['floor_flop']:.3f}", f"{c['bytes'] / 1e6:.0f}",
                      f"{c['measured_bytes'] / 1e6:.0f}", f"{ratio:.2f}"])  # fmt: skip
    return cells


def markdown(cells: list[list[str]]) -> str:
    """Formats a table as in docs/reproduce_paper.md."""
    head, *rows = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([head, f"|{' --- |' * len(cells[0])}", *rows])


def show(cells: list[list[str]], title: str, console: Console) -> None:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
    for row in cells[1:]:
        table.add_row(*row)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utilization", nargs="+", type=float, default=[], metavar="PERCENT", help="shares of the GPUs' "
                        "bfloat16 peak, such as 8 12 20; prints the hours that follow (default: no hours)")  # fmt: skip
    parser.add_argument("--batch-seconds", type=float, default=600.0, help="audio a GPU, for memory (default 600)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "paper_cost.json")
    parser.add_argument("--markdown", action="store_true", help="print the tables as in docs/reproduce_paper.md")
    args = parser.parse_args()
    if args.batch_seconds < 35:
        parser.error(f"--batch-seconds {args.batch_seconds:g}: at least 35, the longest utterance")
    for utilization in args.utilization:
        if not 0 < utilization <= 100:
            parser.error(f"--utilization {utilization:g}: above 0 and at most 100 (percent)")
    began = time.process_time()
    Setting("birq_conformer_tiny", threads=1).prepare()
    with Progress(transient=True) as progress:
        checks, counts = check_all(progress), count_all(args.batch_seconds, progress)
    rows = count_rows(counts)
    write_json(args.out, {
        "torch": torch.__version__, "gpus": GPUS, "peak": PEAK, "batch_seconds": args.batch_seconds, "checks": checks,
        "counts": counts, "rows": rows,
    })  # fmt: skip
    tables = {
        "Counted beside measured on a CPU (docs/results/step_*.json)": check_table(checks),
        f"A batch of {args.batch_seconds:g} s a GPU, bf16-mixed (counted)": memory_table(counts, memory_margin(checks)),
        "Operations of the rows (counted)": flop_table(rows),
    }
    if args.utilization:
        tables["Hours at the given utilizations (not measured on a GPU)"] = hours_table(rows, args.utilization)
    console = Console(width=180)
    for title, cells in tables.items():
        if args.markdown:
            print(markdown(cells), end="\n\n")
        else:
            show(cells, title, console)
    if args.utilization:
        console.print(EVIDENCE)
    print(f"{args.out} ({time.process_time() - began:.0f} s of the processor)")


if __name__ == "__main__":
    main()
