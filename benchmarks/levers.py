"""Measures the effect of each way to make a step faster: BiRQ is compared with BiRQ with a single change, in turn.

    python benchmarks/levers.py --config middle --threads 2       # ten minutes on two cores

``predicted`` is the ratio of step times that was expected before the first measurement, with its reason. The gradient of
each is compared with that of the eager step in float32: cosine and ratio of the norms, over utterances of several lengths,
without dropout. For compiled layers, the benchmark counts the graphs over the shapes of eight buckets. It writes
docs/results/levers_CONFIG_DEVICE_PRECISION.json after each stage.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from lever_effects import compare_gradients, count_graphs, gradient_of, quiet
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from step import arguments, machine, setting_of, time_steps
from step_comparison import ratio, spread
from step_variants import ROOT, Setting, Variant, build
from torch.utils.checkpoint import checkpoint

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.utils.files import write_json


class Lever(NamedTuple):
    predicted: float
    reason: str
    overrides: tuple[str, ...] = ()
    change: Callable[[Variant], None] = lambda variant: None
    context: Callable[[], AbstractContextManager] = nullcontext
    """Context of every step."""

    def build(self, setting: Setting) -> Variant:
        variant = build("BiRQ", replace(setting, overrides=setting.overrides + self.overrides))
        self.change(variant)
        step = variant.step

        def within(batch: SpeechBatch) -> torch.Tensor:
            with self.context():
                return step(batch)

        variant.step = within
        return variant


def compile_layers(variant: Variant) -> None:
    for layer in variant.model.encoder.layers:
        layer.compile()


def compile_dynamic(variant: Variant) -> None:
    """Compiles the attention and the feed-forward modules, with one graph of each for all lengths and numbers of utterances.

    The convolution module stays as it is: for its backward pass, PyTorch 2.13 fixes the length, and every length of
    utterances would be compiled anew.
    """
    for layer in variant.model.encoder.layers:
        for part in (layer.feed_forward1, layer.self_attn, layer.feed_forward2):
            part.compile(dynamic=True)


def cuda_graphs(variant: Variant) -> None:
    """Compiles the layers and replays their kernels as CUDA graphs, one for each shape."""
    for layer in variant.model.encoder.layers:
        layer.compile(mode="reduce-overhead")


def checkpoint_layers(variant: Variant) -> None:
    """Makes layers keep only their input and recompute their output in the backward pass."""
    for layer in variant.model.encoder.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def channels_last(variant: Variant) -> None:
    variant.model.encoder.pre_encode.to(memory_format=torch.channels_last)


@contextmanager
def half_the_threads() -> Iterator[None]:
    many = torch.get_num_threads()
    torch.set_num_threads(max(1, many // 2))
    yield
    torch.set_num_threads(many)


@contextmanager
def tf32() -> Iterator[None]:
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


AS_IS = "as it is"
LEVERS = {
    AS_IS: Lever(1.0, ""),
    "use_pytorch_sdpa": Lever(
        0.95, "softmax and dropout of attention fused; relative positions still make a T' x T' bias",
        ("+model.encoder.use_pytorch_sdpa=true",),
    ),
    "torch.compile of layers": Lever(0.90, "elementwise parts of a layer fused; products stay", change=compile_layers),
    "compiled, dynamic": Lever(
        0.95, "one graph for all shapes, without the convolution module", change=compile_dynamic
    ),
    "CUDA graphs": Lever(0.9, "as compiled; a layer is one launch, where kernels are short", change=cuda_graphs),
    "activation checkpointing": Lever(1.3, "layers run forward once more; most memory is free", change=checkpoint_layers),
    "chunk_frames=256": Lever(1.0, "the default on a CPU; many small products", ("+model.birq.loss.chunk_frames=256",)),
    "chunk_frames=4096": Lever(1.0, "fewer and larger products of the heads", ("+model.birq.loss.chunk_frames=4096",)),
    "channels-last subsampling": Lever(0.99, "oneDNN reorders by itself, and they are small", change=channels_last),
    "fused AdamW": Lever(0.98, "the optimizer is 3 % of the step, one pass for many", ("+model.optim.fused=true",)),
    "foreach AdamW": Lever(1.0, "no kernels to launch on a CPU", ("+model.optim.foreach=true",)),
    "half the threads": Lever(1.8, "products scale, memory does not", context=half_the_threads),
    "TF32 products": Lever(0.7, "float32 products on tensor cores; changes results", context=tf32),
}  # fmt: skip


def levers_for(setting: Setting) -> dict[str, Lever]:
    """Returns the levers that apply to a setting: threads on a CPU, CUDA graphs and, in float32, TF32 on a GPU."""
    left_out = {"half the threads"} if setting.device == "cuda" else {"TF32 products", "CUDA graphs"}
    if setting.precision != "32":
        left_out.add("TF32 products")
    if setting.device == "cpu" and torch.get_num_threads() == 1:
        left_out.add("half the threads")
    return {name: lever for name, lever in LEVERS.items() if name not in left_out}


def prepare(setting: Setting, levers: dict[str, Lever], console: Console) -> tuple[dict[str, Variant], dict[str, float]]:
    """Returns the variants that work on this machine, and the seconds of their first steps, including compilation."""
    variants, first = {}, {}
    for name, lever in levers.items():
        variant = lever.build(setting)
        began = time.perf_counter()
        try:
            variant.step(setting.batch())
            first[name] = time.perf_counter() - began
            for _ in range(2):  # CUDA graphs are recorded in the second step and replayed in the third
                variant.step(setting.batch())
        except Exception as error:  # a missing compiler or kernel is a result, too
            console.print(f"{name}: not possible here: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            continue
        variants[name] = variant
    return variants, first


def show(rows: dict[str, dict], title: str, console: Console) -> None:
    table = Table(title=title, title_justify="left")
    columns = ("", "predicted", "measured", "95 %", "step (ms)", "first step (s)", "cosine", "norm", "kept (MB)", "graphs")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        times = f"{row['measured']:.3f}", f"{row['low']:.3f} - {row['high']:.3f}", f"{1e3 * row['seconds']['median']:.0f}"
        effects = f"{row['cosine']:.6f}", f"{row['norm']:.4f}", f"{row['kept'] / 1e6:.0f}"
        graphs = " ".join(map(str, row.get("graphs", ())))
        table.add_row(name, f"{row['predicted']:.2f}", *times, f"{row['first_step']:.1f}", *effects, graphs)
    console.print(table)


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(config="middle", rounds=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--levers", nargs="+", choices=LEVERS, metavar="NAME", help=f"some of: {', '.join(LEVERS)}")
    args: Namespace = parser.parse_args()
    try:
        setting = setting_of(args)
    except ValueError as error:
        parser.error(str(error))
    console = Console(width=140)
    out = args.out or ROOT / "docs" / "results" / f"levers_{args.config}_{args.device}_{args.precision}.json"
    wanted = {AS_IS, *(args.levers or LEVERS)}
    levers = {name: lever for name, lever in levers_for(setting).items() if name in wanted}
    rows: dict[str, dict] = {}

    def save() -> None:
        described = {"setting": asdict(setting) | {"rounds": args.rounds}, "machine": machine(setting)}
        write_json(out, described | {"levers": rows})

    variants, first = prepare(setting, levers, console)
    with Progress(transient=True) as progress:
        steps = time_steps(variants, setting, args.rounds, progress)
    seconds = {name: found["step"] for name, found in steps.items()}
    for name in variants:
        middle, low, high = ratio(seconds[name], seconds[AS_IS])
        rows[name] = {"predicted": levers[name].predicted, "reason": levers[name].reason, "measured": middle, "low": low,
                      "high": high, "seconds": spread(seconds[name])._asdict(), "first_step": first[name]}  # fmt: skip
    save()
    variants.clear()
    in_float32 = replace(setting, precision="32")
    exact = gradient_of(levers[AS_IS].build(quiet(in_float32)), in_float32)
    for name in rows:
        torch._dynamo.reset()  # otherwise graphs of one lever count towards the limit of the next, which would run eagerly
        with levers[name].context():
            rows[name] |= compare_gradients(gradient_of(levers[name].build(quiet(setting)), setting), exact)
        save()
    for name in rows:
        if levers[name].change in (compile_layers, compile_dynamic):
            rows[name]["graphs"] = count_graphs(levers[name].build(setting), setting)
            save()
    show(rows, f"BiRQ, {args.config}, {setting.batch_seconds:g} s of audio a step", console)
    print(out)


if __name__ == "__main__":
    main()
