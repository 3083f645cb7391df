"""The bar charts of docs/performance.md, with the parts of the step time and the memory."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from step_timing import (
    BACKWARD,
    LABEL_PASS,
    LABELS,
    LOSS,
    MASKED_PASS,
    MASKING,
    OPTIMIZER,
    PARTS,
    PREPROCESSOR,
    STATISTICS,
)  # fmt: skip

COLORS = {
    MASKED_PASS: "#1f5f99", LABEL_PASS: "#6fa8d6", BACKWARD: "#12375c", OPTIMIZER: "#9fb4c7", LABELS: "#e07b39",
    LOSS: "#f2b66d", STATISTICS: "#8c4f9e", PREPROCESSOR: "#7aa874", MASKING: "#b9d3b0",
}  # fmt: skip


def draw_bars(result: dict, path: Path) -> None:
    """Draws time, stacked by parts, and memory of each variant, with the stock one at the top."""
    variants, setting, batch = result["variants"], result["setting"], result["batch"]
    names = list(variants)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.9 + 0.42 * len(names)), width_ratios=(3, 1.2), sharey=True, layout="constrained"
    )
    begin = [0.0] * len(names)
    order = sorted(PARTS, key=lambda part: list(COLORS).index(part))
    for part in order:
        widths = [1e3 * variants[name]["parts"].get(part, 0.0) for name in names]
        if any(widths):
            left.barh(names, widths, left=begin, color=COLORS[part], label=part, height=0.7)
        begin = [b + w for b, w in zip(begin, widths, strict=True)]
    steps = [variants[name]["seconds"] for name in names]
    middles = [1e3 * step["median"] for step in steps]
    errors = [[1e3 * (s["median"] - s["q25"]) for s in steps], [1e3 * (s["q75"] - s["median"]) for s in steps]]
    left.errorbar(middles, range(len(names)), xerr=errors, fmt="none", ecolor="black", capsize=3, lw=1)
    for row, (step, milliseconds) in enumerate(zip(steps, middles, strict=True)):
        left.annotate(f"{milliseconds:.0f}", (1e3 * step["q75"], row), (6, 0), textcoords="offset points", va="center")
    left.set_xlim(0, 1.12 * max(1e3 * step["q75"] for step in steps))
    left.invert_yaxis()
    left.set_xlabel("ms a step: median, quartiles")
    memory = [(variants[name]["peak"] - variants[name]["libraries"]) / 1e6 for name in names]
    right.barh(names, memory, color="#888888", height=0.7)
    for row, megabytes in enumerate(memory):
        right.annotate(f"{megabytes:.0f}", (megabytes, row), (4, 0), textcoords="offset points", va="center")
    right.set_xlim(0, 1.25 * max(memory))
    right.set_xlabel("peak memory of model and step (MB)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    title = f"{setting['config']}, {batch['seconds']:.0f} s of audio a step, {setting['device']}, {setting['precision']}"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)
