"""What each way to make a step faster brings, one by one: BiRQ as it is against BiRQ with one thing changed, in turn.

    python benchmarks/levers.py --config middle --threads 2       # ten minutes on two cores

``predicted`` is what was expected before the first measurement, as a ratio of the step's time, with its reason. Writes
docs/results/levers_CONFIG_DEVICE_PRECISION.json.
"""

import json
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from step import arguments, machine, setting_of, time_steps
from step_comparison import ratio, spread
from step_variants import ROOT, Setting, Variant, build

from nemo_birq.data.batch import SpeechBatch


class Lever(NamedTuple):
    predicted: float
    reason: str
    overrides: tuple[str, ...] = ()
    change: Callable[[Variant], None] = lambda variant: None


def compile_layers(variant: Variant) -> None:
    for layer in variant.model.encoder.layers:
        layer.compile()


def channels_last(variant: Variant) -> None:
    variant.model.encoder.pre_encode.to(memory_format=torch.channels_last)


def one_thread(variant: Variant) -> None:
    """Half as many threads as the others have."""
    many, step = torch.get_num_threads(), variant.step

    def alone(batch: SpeechBatch) -> torch.Tensor:
        torch.set_num_threads(max(1, many // 2))
        try:
            return step(batch)
        finally:
            torch.set_num_threads(many)

    variant.step = alone


def tf32(variant: Variant) -> None:
    step = variant.step

    def rounded(batch: SpeechBatch) -> torch.Tensor:
        torch.set_float32_matmul_precision("high")
        try:
            return step(batch)
        finally:
            torch.set_float32_matmul_precision("highest")

    variant.step = rounded


AS_IS = "as it is"
LEVERS = {
    AS_IS: Lever(1.0, ""),
    "use_pytorch_sdpa": Lever(
        0.95, "softmax and dropout of attention fused; relative positions still make a T' x T' bias",
        ("+model.encoder.use_pytorch_sdpa=true",),
    ),
    "torch.compile of layers": Lever(0.90, "elementwise parts of a layer fused; products stay", change=compile_layers),
    "channels-last subsampling": Lever(0.99, "oneDNN reorders by itself, and they are small", change=channels_last),
    "fused AdamW": Lever(0.98, "the optimizer is 3 % of the step, one pass for many", ("+model.optim.fused=true",)),
    "foreach AdamW": Lever(1.0, "no kernels to launch on a CPU", ("+model.optim.foreach=true",)),
    "half the threads": Lever(1.8, "products scale, memory does not", change=one_thread),
    "TF32 products": Lever(0.7, "float32 products on tensor cores; changes results", change=tf32),
}  # fmt: skip


def levers_for(setting: Setting) -> dict[str, Lever]:
    """Those that mean something there: threads on a CPU, TF32 on a GPU in float32."""
    left_out = {"half the threads"} if setting.device == "cuda" else {"TF32 products"}
    if setting.precision != "32":
        left_out.add("TF32 products")
    if setting.device == "cpu" and torch.get_num_threads() == 1:
        left_out.add("half the threads")
    return {name: lever for name, lever in LEVERS.items() if name not in left_out}


def prepare(setting: Setting, levers: dict[str, Lever], console: Console) -> tuple[dict[str, Variant], dict[str, float]]:
    """The variants that can take a step here, and the seconds of their first steps, with compilation."""
    variants, first = {}, {}
    for name, lever in levers.items():
        variant = build("BiRQ", replace(setting, overrides=setting.overrides + lever.overrides))
        lever.change(variant)
        began = time.perf_counter()
        try:
            variant.step(setting.batch())
        except Exception as error:  # no compiler, no kernel: that is the result
            console.print(f"{name}: not possible here: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            continue
        variants[name], first[name] = variant, time.perf_counter() - began
    return variants, first


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(config="middle", rounds=10)
    parser.add_argument("--out", type=Path)
    args: Namespace = parser.parse_args()
    try:
        setting = setting_of(args)
    except ValueError as error:
        parser.error(str(error))
    console = Console(width=140)
    levers = levers_for(setting)
    variants, first = prepare(setting, levers, console)
    with Progress(transient=True) as progress:
        steps = time_steps(variants, setting, args.rounds, progress)
    seconds = {name: found["step"] for name, found in steps.items()}
    rows = {}
    table = Table(title=f"BiRQ, {args.config}, {setting.batch_seconds:g} s of audio a step", title_justify="left")
    for column in ("", "predicted", "measured", "95 %", "step (ms)", "first step (s)"):
        table.add_column(column, justify="right" if column else "left")
    for name in variants:
        middle, low, high = ratio(seconds[name], seconds[AS_IS])
        rows[name] = {"predicted": levers[name].predicted, "reason": levers[name].reason, "measured": middle, "low": low,
                      "high": high, "seconds": spread(seconds[name])._asdict(), "first_step": first[name]}  # fmt: skip
        table.add_row(name, f"{levers[name].predicted:.2f}", f"{middle:.3f}", f"{low:.3f} - {high:.3f}",
                      f"{1e3 * spread(seconds[name]).median:.0f}", f"{first[name]:.1f}")  # fmt: skip
    console.print(table)
    result = {"setting": asdict(setting) | {"rounds": args.rounds}, "machine": machine(setting), "levers": rows}
    out = args.out or ROOT / "docs" / "results" / f"levers_{args.config}_{args.device}_{args.precision}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
