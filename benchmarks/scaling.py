"""Measures the growth of the cost of a training step with seconds of audio per batch, with the codebook, and with layer k.

    python benchmarks/scaling.py --config middle                       # all sweeps, 15 minutes on two cores
    python benchmarks/scaling.py --config middle --sweeps codes        # one; the others stay as they are in the json
    python benchmarks/scaling.py --config birq_conformer_large --device cuda --precision bf16-mixed --batch-seconds 120

At each size, the variants take steps in turn (see step.py), then each takes some in a separate process for the memory. The
results are json and a picture with the exponent p of the power law cost ~ size^p that fits best.
"""

import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, ScalarFormatter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from step import arguments, machine, setting_of, time_steps
from step_comparison import exponent, spread
from step_cost import costs
from step_variants import BUILDERS, ROOT, Setting, build

SWEEPS = {"batch": "seconds of audio a batch", "codes": "codes V", "layer": "layer k"}
DRAWN = ["stock BEST-RQ", "BEST-RQ", "BiRQ", "BiRQ, label gradient"]


def sizes_of(sweep: str, setting: Setting) -> dict[float, Setting]:
    """Returns the settings of a sweep by size."""
    if sweep == "batch":
        return {s: replace(setting, batch_seconds=s) for f in (0.5, 1, 2, 4) if (s := f * setting.batch_seconds) >= 1}
    depth = setting.model_config().encoder.n_layers
    numbers = (
        (512, 2048, 8192, 32768) if sweep == "codes" else sorted({max(1, round(depth * f)) for f in (0.25, 0.5, 0.75, 1)})
    )
    key = "quantizer.num_codes" if sweep == "codes" else "labels.layer"
    return {n: replace(setting, overrides=(*setting.overrides, f"model.birq.{key}={n}")) for n in numbers}


def measure(settings: dict[float, Setting], names: list[str], rounds: int) -> dict:
    """Returns median seconds and bytes of a step by variant and size."""
    seconds = {name: [] for name in names}
    memory = {name: [] for name in names}
    with Progress(transient=True) as progress:
        for setting in progress.track(settings.values(), description="sizes"):
            variants = {name: build(name, setting) for name in names}
            steps = time_steps(variants, setting, rounds, progress)
            del variants
            cost = costs(names, setting)
            for name in names:
                seconds[name].append(spread(steps[name]["step"])._asdict())
                memory[name].append(cost[name]["peak"] - cost[name]["libraries"])
    return {"sizes": list(settings), "rounds": rounds, "seconds": seconds, "memory": memory}


def exponents(sweep: dict) -> dict[str, tuple[float, float]]:
    """Returns the exponents of time and memory for each variant."""
    return {
        name: (exponent(sweep["sizes"], [s["median"] for s in steps]), exponent(sweep["sizes"], sweep["memory"][name]))
        for name, steps in sweep["seconds"].items()
    }


def draw(result: dict, path: Path) -> None:
    sweeps = [name for name in SWEEPS if name in result["sweeps"]]
    figure, grid = plt.subplots(2, len(sweeps), figsize=(3.9 * len(sweeps), 6.2), squeeze=False, layout="constrained")
    for column, name in zip(grid.T, sweeps, strict=True):
        sweep = result["sweeps"][name]
        for variant, (of_time, of_memory) in exponents(sweep).items():
            times = [1e3 * step["median"] for step in sweep["seconds"][variant]]
            _line(column[0], sweep["sizes"], times, variant, of_time)
            _line(column[1], sweep["sizes"], [m / 1e6 for m in sweep["memory"][variant]], variant, of_memory)
        for axes, label in zip(column, ("ms a step", "peak memory (MB)"), strict=True):
            axes.set(xlabel=SWEEPS[name], ylabel=label if name == sweeps[0] else "", xscale="log", yscale="log")
            axes.set_xticks(sweep["sizes"], [f"{size:g}" for size in sweep["sizes"]])
            axes.minorticks_off()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            low, high = axes.get_ylim()
            low, high = low / 1.3, high * 1.3
            axes.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7.5, frameon=False, loc="upper left")
    setting = result["setting"]
    figure.suptitle(
        f"{setting['config']}, {setting['device']}, {setting['precision']}", x=0.01, ha="left", fontweight="bold"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)
    plt.close(figure)


def _line(axes: Axes, sizes: list[float], values: list[float], name: str, power: float) -> None:
    axes.plot(sizes, values, "o-", ms=4, lw=1.5, color=f"C{list(BUILDERS).index(name)}", label=f"{name}, p = {power:.2f}")


def print_table(name: str, sweep: dict, console: Console) -> None:
    table = Table(title=f"Step by {SWEEPS[name]}: ms, MB", title_justify="left")
    for column in ("", *(f"{size:g}" for size in sweep["sizes"]), "p of time", "p of memory"):
        table.add_column(column, justify="right" if column else "left")
    for variant, powers in exponents(sweep).items():
        pairs = zip(sweep["seconds"][variant], sweep["memory"][variant], strict=True)
        cells = [f"{1e3 * step['median']:.0f}, {memory / 1e6:.0f}" for step, memory in pairs]
        table.add_row(variant, *cells, *(f"{power:.2f}" for power in powers))
    console.print(table)


def parse() -> tuple[Namespace, Setting]:
    parser = arguments(__doc__)
    parser.set_defaults(variants=DRAWN, rounds=5, batch_seconds=30.0)
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--out", type=Path, help="json; default docs/results/scaling_CONFIG_DEVICE_PRECISION.json")
    parser.add_argument("--picture", type=Path, help="default docs/pictures/, the name of the json")
    args = parser.parse_args()
    try:
        return args, setting_of(args)
    except ValueError as error:
        parser.error(str(error))


def main() -> None:
    args, setting = parse()
    out = args.out or ROOT / "docs" / "results" / f"scaling_{args.config}_{args.device}_{args.precision}.json"
    result = {"setting": asdict(setting), "machine": machine(setting), "sweeps": {}}
    if out.exists():
        known = json.loads(out.read_text())
        if known["setting"] == json.loads(json.dumps(result["setting"])):
            result = known
    for name in args.sweeps:
        result["sweeps"][name] = measure(sizes_of(name, setting), args.variants, args.rounds)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")  # after each sweep, because the next may be interrupted
        print_table(name, result["sweeps"][name], Console(width=160))
    picture = args.picture or ROOT / "docs" / "pictures" / f"{out.stem}.png"
    draw(result, picture)
    print(f"{out}\n{picture}")


if __name__ == "__main__":
    main()
