"""Profiles a training step: kernels by time, gaps between them, launches, and waits of the host.

    python benchmarks/step_profile.py                                             # the tiny model on a CPU
    python benchmarks/step_profile.py --config birq_conformer_large --device cuda --precision bf16-mixed --batch-seconds 240

Operations and waits are counted from a step on a device without contents (device_waits.py), so a CPU is enough to count
those of a GPU. Times come from torch.profiler over some steps. Lightning's profilers show a whole training, with its waits
for data (docs/performance.md). The result is docs/results/step_profile_CONFIG_DEVICE_PRECISION.json.
"""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from device_waits import recording
from rich.console import Console
from rich.table import Table
from step import arguments, machine, setting_of
from step_variants import ROOT, Setting, Variant, build
from torch.profiler import ProfilerActivity, profile

from nemo_birq.utils.files import write_json

WARM_UP = 3
STEPS = 3
SHOWN = 15
SYNCHRONIZING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
LAUNCHING = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")


def count_operations(name: str, setting: Setting) -> dict[str, Any]:
    """Counts a step of a variant: ``operations`` of the device in all, the most frequent ones, and ``waits`` by place."""
    setting = replace(setting, device="meta", overrides=(*setting.overrides, "model.optim.name=adamw"))
    with recording():
        variant = build(name, setting)
        batch = setting.batch()
        variant.step(batch)
    with recording() as found:
        variant.step(batch)
    frequent = dict(found.operations.most_common(SHOWN))
    return {"operations": found.operations.total(), "frequent": frequent, "waits": dict(found.waits)}


def profile_steps(variant: Variant, setting: Setting) -> dict[str, Any]:
    """Profiles some steps; numbers are means of a step.

    Returns:
        ``seconds`` of the step; ``busy`` seconds of the device (GPU), the rest being gaps; ``kernels``, seconds by name in
        falling order (on a CPU operations without those inside); ``launches`` and ``synchronizations`` (GPU).
    """
    on_gpu = setting.device == "cuda"
    batch, clock = setting.batch(), setting.make_clock()
    for _ in range(WARM_UP):
        variant.step(batch)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    clock.wait()
    with profile(activities=activities) as profiler:
        began = clock.now()
        for _ in range(STEPS):
            variant.step(batch)
        clock.wait()
        seconds = clock.now() - began
    averages = profiler.key_averages()
    calls = Counter({event.key: event.count for event in averages})
    times = {event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) for event in averages}
    if on_gpu:  # events of the host have no time on the device
        kernels = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        times = dict(Counter())
        for event in kernels:
            times[event.name] = times.get(event.name, 0.0) + event.time_range.elapsed_us()
        busy = _union([(event.time_range.start, event.time_range.end) for event in kernels])
    longest = sorted(times.items(), key=lambda item: -item[1])[:SHOWN]
    result = {"seconds": seconds / STEPS, "kernels": {name: 1e-6 * time / STEPS for name, time in longest if time > 0}}
    if on_gpu:
        result |= {
            "busy": 1e-6 * busy / STEPS,
            "launches": sum(calls[name] for name in LAUNCHING) / STEPS,
            "synchronizations": sum(calls[name] for name in SYNCHRONIZING) / STEPS,
        }
    return result


def _union(intervals: list[tuple[float, float]]) -> float:
    """Returns the total length of the union of intervals."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered


def print_tables(name: str, counted: dict[str, Any], profiled: dict[str, Any], console: Console) -> None:
    console.print(
        f"{name}: {counted['operations']} operations of the device in a step, {sum(counted['waits'].values())} waits"
    )
    for place, number in counted["waits"].items():
        console.print(f"  waits {number} x: {place}")
    text = f"{1e3 * profiled['seconds']:.1f} ms a step under the profiler"
    if "busy" in profiled:
        gaps = 1 - profiled["busy"] / profiled["seconds"]
        text += f", {gaps:.0%} of it gaps between kernels, {profiled['launches']:.0f} launches, "
        text += f"{profiled['synchronizations']:.0f} synchronizations"
    console.print(text)
    table = Table()
    for column in ("kernel or operation", "ms", "share"):
        table.add_column(column, justify="left" if column.startswith("k") else "right", overflow="fold")
    for kernel, seconds in profiled["kernels"].items():
        table.add_row(kernel[:110], f"{1e3 * seconds:.2f}", f"{seconds / profiled['seconds']:.1%}")
    console.print(table)


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(variants=["BiRQ"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    try:
        setting = setting_of(args)
    except ValueError as error:
        parser.error(str(error))
    console, rows = Console(width=140), {}
    for name in args.variants:
        counted = count_operations(name, setting)
        profiled = profile_steps(build(name, setting), setting)
        print_tables(name, counted, profiled, console)
        rows[name] = counted | profiled
    out = args.out or ROOT / "docs" / "results" / f"step_profile_{args.config}_{args.device}_{args.precision}.json"
    write_json(out, {"setting": asdict(setting), "machine": machine(setting), "variants": rows})
    print(out)


if __name__ == "__main__":
    main()
