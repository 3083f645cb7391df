"""Measures the cost of a training step: stock NeMo's BEST-RQ, ours, BiRQ, and a lower bound.

    python benchmarks/step.py                                     # the tiny model, two minutes
    python benchmarks/step.py --config middle --batch-seconds 60
    python benchmarks/step.py --config birq_conformer_large --device cuda --precision bf16-mixed --fill

All variants take steps in turn in one process, in a new random order for each round; the first rounds are left out. Then
each takes a few steps in a separate process for memory and floating point operations. The results are a table, json and a
bar chart. Further arguments are Hydra overrides, e.g. model.birq.quantizer.num_codes=1024.
"""

import argparse
import gc
import json
import platform
import random
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from step_comparison import compare, spread
from step_cost import costs, largest_fitting
from step_picture import draw_bars
from step_timing import PARTS, sums
from step_variants import BUILDERS, RATE, ROOT, Setting, Variant, build

from nemo_birq.utils.device_speed import matrix_product_flops, training_dtype

WARM_UP = 2


def arguments(description: str = __doc__) -> argparse.ArgumentParser:
    """Returns a parser with the arguments of all benchmarks of a step."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of the configuration")
    parser.add_argument("--config", default="birq_conformer_tiny", help="a file of conf/, or middle (8 x 256, 8192 codes)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["32", "bf16-mixed"], default="32")
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="seconds of audio a batch (default 60)")
    parser.add_argument("--utterance-seconds", type=float, default=15.0, help="length of the utterances (default 15)")
    parser.add_argument("--threads", type=int, help="threads of the CPU; default: PyTorch's choice")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall",
                        help="processor: processor time, which other programs affect less; needs --threads 1")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each variant (default 15)")
    parser.add_argument("--variants", nargs="+", choices=BUILDERS, default=list(BUILDERS), metavar="NAME",
                        help=f"some of: {', '.join(BUILDERS)}")  # fmt: skip
    return parser


def setting_of(args: argparse.Namespace) -> Setting:
    """Returns the checked setting, and applies it to this process."""
    setting = Setting(args.config, tuple(args.overrides), args.device, args.precision, args.batch_seconds,
                      args.utterance_seconds, args.threads, args.clock)  # fmt: skip
    setting.check()
    if args.rounds < 1:
        raise ValueError(f"--rounds {args.rounds}: at least 1")
    setting.prepare()
    return setting


def time_steps(variants: dict[str, Variant], setting: Setting, rounds: int, progress: Progress) -> dict[str, dict]:
    """Returns the seconds by variant, part and round; the part ``step`` is the whole step."""
    batch, order = setting.batch(), random.Random(0)
    steps = {name: [] for name in variants}
    task = progress.add_task("timing", total=(WARM_UP + rounds) * len(variants))
    for number in range(WARM_UP + rounds):
        for name in order.sample(list(variants), len(variants)):
            with variants[name].parts.step() as seconds:
                variants[name].step(batch)
            if number >= WARM_UP:
                steps[name].append(seconds)
            progress.advance(task)
    return {name: sums(taken) for name, taken in steps.items()}


def fill(variants: dict[str, Variant], setting: Setting) -> Setting:
    """Returns the setting with the largest batch, in whole utterances, that fits for every variant on this machine."""

    def fits(count: int) -> bool:
        batch, fitted = replace(setting, batch_seconds=count * setting.utterance_seconds).batch(), True
        try:
            for variant in variants.values():
                variant.step(batch)
        except torch.OutOfMemoryError:
            fitted = False
        for variant in variants.values():  # the memory that the exception held is free by now
            variant.optimizer.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        return fitted

    count = largest_fitting(fits, start=1, most=4096)
    if count == 0:
        raise ValueError(f"--fill: not even one utterance of {setting.utterance_seconds:g} s fits; name fewer --variants")
    return replace(setting, batch_seconds=count * setting.utterance_seconds)


def measure(names: list[str], setting: Setting, rounds: int, filled: bool = False) -> dict:
    """Returns all measurements as they are written to json."""
    with Progress(transient=True) as progress:
        variants = {name: build(name, setting) for name in progress.track(names, description="building")}
        if filled:
            setting = fill(variants, setting)
        peak_flops = matrix_product_flops(torch.device(setting.device), training_dtype(setting.precision))
        seconds = time_steps(variants, setting, rounds, progress)
        factor = variants[names[0]].model.cfg.encoder.subsampling_factor
        del variants
        gc.collect()
        torch.cuda.empty_cache()
        task = progress.add_task("memory, one process each", total=len(names))
        cost = costs(names, setting, lambda name: progress.advance(task))
    batch = setting.batch()
    audio = float(batch.signal_length.sum()) / RATE
    result = {
        "setting": asdict(setting) | {"rounds": rounds},
        "machine": machine(setting),
        "batch": {"utterances": len(batch.signal), "seconds": audio, "frames": round(audio * 100 / factor)},
        "matrix_product_flops": peak_flops,
        "variants": {},
    }
    for name in names:
        step = spread(seconds[name]["step"])
        result["variants"][name] = cost[name] | {
            "seconds": step._asdict(),
            "parts": {part: median(seconds[name][part]) for part in PARTS if part in seconds[name]},
            "all_seconds": [round(value, 5) for value in seconds[name]["step"]],
            "frames_per_second": result["batch"]["frames"] / step.median,
            "audio_hours_per_hour": audio / step.median,
            "flops": cost[name]["flop"] / step.median,
        }
    memory = {name: cost[name]["peak"] - cost[name]["libraries"] for name in names}
    whole = {name: cost[name]["peak"] for name in names}
    result["ratios"] = compare({name: seconds[name]["step"] for name in names}, memory)
    result["ratios_of_whole_memory"] = compare({}, whole)
    return result


def machine(setting: Setting) -> str:
    if setting.device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []  # fmt: skip
    bf16 = "" if setting.precision == "32" else (
        ", bfloat16 in hardware" if torch.cpu._is_avx512_bf16_supported() else ", bfloat16 emulated")  # fmt: skip
    name = names[0] if names else platform.processor()
    return f"{name}, {torch.get_num_threads()} thread(s){bf16}, torch {torch.__version__}, {platform.system()}"


def print_tables(result: dict, console: Console) -> None:
    setting, batch = result["setting"], result["batch"]
    title = (
        f"{setting['config']} {' '.join(setting['overrides'])}, {setting['precision']}: {batch['utterances']} utterances, "
    )
    table = Table(
        title=f"{title}{batch['seconds']:.0f} s of audio, {batch['frames']} encoder frames a step", title_justify="left"
    )
    columns = ("", "step (s)", "quartiles", "audio h / h", "frames / s", "GFLOP", "GFLOP/s", "of peak", "memory (MB)",
               "in all", "largest tensor", "of codes")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    for name, found in result["variants"].items():
        step = found["seconds"]
        table.add_row(
            name, f"{step['median']:.3f}", f"{step['q25']:.3f} - {step['q75']:.3f}", f"{found['audio_hours_per_hour']:.0f}",
            f"{found['frames_per_second']:.0f}", f"{found['flop'] / 1e9:.1f}", f"{found['flops'] / 1e9:.1f}",
            f"{found['flops'] / result['matrix_product_flops']:.0%}", f"{(found['peak'] - found['libraries']) / 1e6:.0f}",
            f"{found['peak'] / 1e6:.0f}", f"{found['largest_tensor'] / 1e6:.1f}", f"{found['largest_of_codes'] / 1e6:.1f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"Peak: a matrix product reaches {result['matrix_product_flops'] / 1e9:.0f} GFLOP/s here. "
        + (
            "Memory: the peak of a separate process, minus its memory before the model was built; in all: with libraries."
            if setting["device"] == "cpu"
            else "Memory: the peak of PyTorch's allocator in a separate process."
        )
    )
    console.print("Largest tensor (MB) of all, and of those with a dimension of V, that an operation makes.")
    print_parts(result, console)
    table = Table(title="Ratios", title_justify="left")
    for column in ("", "", "to", "ratio", "95 %", "target", ""):
        table.add_column(column, justify="right" if column in ("ratio", "95 %", "target") else "left")
    for row in result["ratios"]:
        interval = f"{row['low']:.3f} - {row['high']:.3f}" if "low" in row else ""
        target = "" if row["target"] is None else f"<= {row['target']:.2f}"
        verdict = {None: "", True: "reached", False: "not reached"}[row["reached"]]
        table.add_row(row["what"], row["of"], row["to"], f"{row['ratio']:.3f}", interval, target, verdict)
    console.print(table)


def print_parts(result: dict, console: Console) -> None:
    """Prints the milliseconds of the parts of each variant."""
    table = Table(title="Parts of a step (ms, medians)", title_justify="left")
    table.add_column("")
    for name in result["variants"]:
        table.add_column(name, justify="right")
    for part in PARTS:
        times = [found["parts"].get(part) for found in result["variants"].values()]
        table.add_row(part, *("" if value is None else f"{1e3 * value:.1f}" for value in times))
    console.print(table)


def main() -> None:
    parser = arguments()
    parser.add_argument("--fill", action="store_true", help="use the largest batch that fits instead of --batch-seconds")
    parser.add_argument("--out", type=Path, help="json; default docs/results/step_CONFIG_DEVICE_PRECISION.json")
    parser.add_argument("--picture", type=Path, help="default docs/pictures/, the name of the json")
    args = parser.parse_args()
    try:
        if args.fill and args.device == "cpu":
            raise ValueError("--fill would fill the memory of the whole machine on a CPU: give --batch-seconds")
        result = measure(args.variants, setting_of(args), args.rounds, args.fill)
    except ValueError as error:
        parser.error(str(error))
    name = f"step_{args.config}_{args.device}_{args.precision}"
    out = args.out or ROOT / "docs" / "results" / f"{name}.json"
    picture = args.picture or ROOT / "docs" / "pictures" / f"{out.stem}.png"
    print_tables(result, Console(width=180))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    draw_bars(result, picture)
    print(f"{out}\n{picture}")


if __name__ == "__main__":
    main()
