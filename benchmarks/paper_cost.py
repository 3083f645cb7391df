"""What the tables of the BiRQ paper cost on 8 GPUs: an estimate, counted from tensor shapes. Nothing here runs on a GPU.

    python benchmarks/paper_cost.py

Operations and memory of a step of each model are counted (step_counts.py) and compared with steps that were taken on a CPU
(docs/results/step_*.json). Hours are operations / (GPUs x peak x utilization); what share of its peak a GPU reaches is not
known, so that they are a range. Prints tables and writes docs/results/paper_cost.json; docs/reproduce_paper.md shows them.
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

GPUS = 8
PEAK = {"H100": 989e12, "A100": 312e12}  # FLOP/s, bfloat16 without sparsity, of the SXM modules
UTILIZATION = (0.2, 0.4)
NO_HEAD_OF_ITS_OWN = ("model.birq.loss.head=shared",)
VARIANTS = {
    "BEST-RQ": ("model.birq.loss.enhanced_weight=0", *NO_HEAD_OF_ITS_OWN),
    "BiRQ, labels=default": ("labels=default",),
    "BiRQ, labels=paper": ("labels=paper",),
    "relabelled": (
        "model.birq.labels.label_gradient=0",
        *NO_HEAD_OF_ITS_OWN,
    ),  # label pass and one head; the teacher is frozen
    "CTC": (),  # the encoder alone
}
LAYER_3 = ("model.birq.labels.layer=3",)


@dataclass(frozen=True)
class Stage:
    """One training."""

    model: str
    """A file of conf/, without its beginning."""
    variant: str
    hours: float
    """Of audio an epoch."""
    epochs: int
    utterance_seconds: float
    layer: int | None = None
    """k, where it is not that of the configuration."""

    @property
    def counted(self) -> tuple[str, str, float, int | None]:
        """What the cost of a second of audio depends on."""
        return self.model, self.variant, self.utterance_seconds, self.layer

    @property
    def audio_seconds(self) -> float:
        return 3600 * self.hours * self.epochs


def table_rows() -> list[tuple[int, str, list[Stage]]]:
    """The rows of tables 1 to 3, as docs/reproduce_paper.md trains them."""
    rows = []
    for number, model, hours, seconds, labelled in ((1, "155m", 960, 15, 100), (2, "275m", 5000, 30, 150)):
        tuning = Stage(model, "CTC", labelled, 30, 15)
        rows.append((number, "supervised", [tuning]))
        for variant in ("BEST-RQ", "BiRQ, labels=paper", "BiRQ, labels=default"):
            rows.append((number, variant, [Stage(model, variant, hours, 100, seconds), tuning]))
    tuning = Stage("137m", "CTC", 100, 30, 15)
    stage_1 = Stage("137m", "BEST-RQ", 960, 100, 15)
    stage_2 = Stage("137m", "relabelled", 960, 100, 15)
    rows.append((3, "BEST-RQ, the first stage", [stage_1, tuning]))
    rows.append((3, "offline relabelling, the second", [stage_2, tuning]))
    for variant in ("BiRQ, labels=paper", "BiRQ, labels=default"):
        for epochs in (100, 300):
            row = f"{variant}, layer 3, {epochs} epochs"
            rows.append((3, row, [Stage("137m", variant, 960, epochs, 15, layer=3), tuning]))
    return rows


def count_all(batch_seconds: float, progress: Progress) -> list[dict]:
    """Operations for a second of audio, and memory of a batch of that many seconds, of everything the rows need."""
    wanted = dict.fromkeys(stage.counted for _, _, stages in table_rows() for stage in stages)
    longest = [("155m", "BiRQ, labels=default", 35, None), ("155m", "BiRQ, labels=default", 5, None)]
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
    """Counts beside what benchmarks/step.py measured of the same steps, with the masks that these had."""
    found = []
    names = {"BEST-RQ": "BEST-RQ", "BiRQ": "BiRQ, labels=default", "BiRQ, label gradient": None}
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


def hours_on(flop: float, gpu: str) -> tuple[float, float]:
    """Least and most hours on all GPUs."""
    least, most = (flop / (GPUS * PEAK[gpu] * share) / 3600 for share in reversed(UTILIZATION))
    return least, most


def price(counts: list[dict]) -> list[dict]:
    """Operations and hours of every row."""
    rate = {(c["model"], c["variant"], c["utterance_seconds"], c["layer"]): c["flop_per_second"] for c in counts}
    rows = []
    for number, name, stages in table_rows():
        flop = sum(stage.audio_seconds * rate[stage.counted] for stage in stages)
        rows.append({
            "table": number, "row": name, "model": stages[0].model, "stages": [asdict(stage) for stage in stages],
            "flop": flop, "hours": {gpu: hours_on(flop, gpu) for gpu in PEAK},
        })  # fmt: skip
    return rows


def span(least: float, most: float) -> str:
    digits = 0 if most >= 10 else 1 if most >= 1 else 2
    return f"{least:.{digits}f} - {most:.{digits}f}"


def memory_margin(checks: list[dict]) -> float:
    """The most that a measured step took for each byte counted; of the larger model: in the tiny one libraries weigh."""
    return max(check["measured_bytes"] / check["bytes"] for check in checks if check["config"] == "middle")


def hours_table(rows: list[dict]) -> list[list[str]]:
    """Cells of the table of hours, its head first and the sum last."""
    cells = [["table", "row", "model", "10^18 FLOP", *(f"hours, {GPUS} x {gpu}" for gpu in PEAK), "GPU hours, H100"]]
    total = sum(row["flop"] for row in rows)
    for table, name, model, flop in (*((r["table"], r["row"], r["model"], r["flop"]) for r in rows),
                                     ("", "all", "", total)):  # fmt: skip
        hours = [hours_on(flop, gpu) for gpu in PEAK]
        in_all = span(*(GPUS * value for value in hours[0]))
        cells.append([str(table), name, model, f"{flop / 1e18:.3g}", *(span(*pair) for pair in hours), in_all])
    return cells


def memory_table(counts: list[dict], margin: float) -> list[list[str]]:
    """Cells of the table of cost and memory, its head first."""
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
    """Cells of the comparison with steps that were taken, its head first."""
    cells = [["model", "step", "GFLOP, counted", "of the step", "to the floor", "memory, counted (MB)", "measured (MB)",
              "measured / counted"]]  # fmt: skip
    for c in checks:
        ratio = c["measured_bytes"] / c["bytes"]
        cells.append([c["config"].removeprefix("birq_conformer_"), c["variant"], f"{c['flop'] / 1e9:.3f}",
                      f"{c['measured_flop'] / 1e9:.3f}", f"{c['flop'] / c['floor_flop']:.3f}", f"{c['bytes'] / 1e6:.0f}",
                      f"{c['measured_bytes'] / 1e6:.0f}", f"{ratio:.2f}"])  # fmt: skip
    return cells


def markdown(cells: list[list[str]]) -> str:
    """The table as docs/reproduce_paper.md has it."""
    head, *rows = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([head, f"|{' --- |' * len(cells[0])}", *rows])


def show(cells: list[list[str]], title: str, console: Console) -> None:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
    for row in cells[1:]:
        table.add_row(*row)
    console.print(table)


def report(result: dict, console: Console) -> None:
    margin, share = memory_margin(result["checks"]), " to ".join(f"{100 * u:.0f} %" for u in UTILIZATION)
    show(check_table(result["checks"]), "Counted beside measured on a CPU (docs/results/step_*.json)", console)
    title = f"A batch of {result['batch_seconds']:g} s a GPU, bf16-mixed (ESTIMATE, not measured on a GPU)"
    show(memory_table(result["counts"], margin), title, console)
    title = f"Hours at {share} of the bfloat16 peak (ESTIMATE, not measured on a GPU)"
    show(hours_table(result["rows"]), title, console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-seconds", type=float, default=600.0, help="of audio a GPU, for memory (default 600)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "paper_cost.json")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/reproduce_paper.md instead")
    args = parser.parse_args()
    if args.batch_seconds < 35:
        parser.error(f"--batch-seconds {args.batch_seconds:g}: at least 35, the longest utterance")
    began = time.process_time()
    Setting("birq_conformer_tiny", threads=1).prepare()
    with Progress(transient=True) as progress:
        result = {
            "torch": torch.__version__, "gpus": GPUS, "peak": PEAK, "utilization": UTILIZATION,
            "batch_seconds": args.batch_seconds, "checks": check_all(progress),
            "counts": count_all(args.batch_seconds, progress),
        }  # fmt: skip
    result["rows"] = price(result["counts"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.markdown:
        tables = check_table(result["checks"]), memory_table(result["counts"], memory_margin(result["checks"]))
        print("\n\n".join(map(markdown, (*tables, hours_table(result["rows"])))))
    else:
        report(result, Console(width=180))
    print(f"{args.out} ({time.process_time() - began:.0f} s of the processor)")


if __name__ == "__main__":
    main()
