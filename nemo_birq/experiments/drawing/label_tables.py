"""What the labels of each method tell about phones, and what pretraining cost."""

from nemo_birq.experiments.drawing.markdown import NOTHING, duration, mean, number, plus_minus, table
from nemo_birq.experiments.drawing.runs import Group, Run

TRAINED = ("enhanced", "relabelled")
"""Labels of the model's own layers: made while it learns, or by clustering."""


def label_table(group: Group) -> str:
    """PNMI of the labels at the end of pretraining; empty where the corpus has no alignments."""
    rows = []
    for name, runs in group.of("method").items():
        if any(run.content["labels"] for run in runs):
            anchor, own = ([last(run, kinds) for run in runs] for kinds in (("anchor",), TRAINED))
            chance = mean([row["pnmi_by_chance"] if row else None for row in own])
            pnmi = [plus_minus([row["pnmi"] if row else None for row in found], 3) for found in (anchor, own)]
            rows.append([f"`{name}`", str(len(runs)), *pnmi, number(chance, 3), best_clusters(runs)])
    header = ("method", "seeds", "anchor", "enhanced or relabelled", "the same by chance", "best k-means (layer)")
    return table(header, rows) if rows else ""


def last(run: Run, kinds: tuple[str, ...]) -> dict | None:
    """The row of the last step; None where such labels were not looked at."""
    rows = run.quality(kinds)
    return rows[-1] if rows else None


def best_clusters(runs: list[Run]) -> str:
    """PNMI of k-means at the end, of the layer whose mean over seeds is the highest."""
    layers: dict[int, list[float]] = {}
    for run in runs:
        rows = run.quality(("kmeans",))
        for row in rows:
            if row["step"] == rows[-1]["step"]:
                layers.setdefault(row["layer"], []).append(row["pnmi"])
    if not layers:
        return NOTHING
    best = max(layers, key=lambda layer: mean(layers[layer]))
    return f"{plus_minus(layers[best], 3)} ({best})"


def cost_table(group: Group) -> str:
    """Time and memory of pretraining, the mean of a run."""
    rows = []
    for name, runs in group.of("method").items():
        trained = [run for run in runs if run.stages]
        if not trained:
            continue
        steps = " + ".join(f"{stage['steps']:,}" for stage in trained[0].stages if stage["steps"])
        hours = mean([sum(stage["audio_hours_seen"] or 0 for stage in run.stages) or None for run in trained])
        times = [duration(mean([run.spent(key) for run in trained])) for key in ("seconds", "processor_seconds")]
        memory = number(max((known for run in trained if (known := run.peak_memory_gb) is not None), default=None), 1)
        alarms = sum(len(stage["alarms"]) for run in trained for stage in run.stages)
        rows.append([f"`{name}`", steps, number(hours, 1), *times, memory, str(alarms)])
    header = ("pretraining", "steps", "hours of audio seen", "wall time", "processor time", "peak memory, GB", "alarms")
    return table(header, rows) if rows else ""
