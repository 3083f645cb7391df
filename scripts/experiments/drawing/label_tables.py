"""What the labels of each method tell about phones, and what pretraining cost."""

from experiments.drawing.markdown import NOTHING, duration, mean, number, plus_minus, table
from experiments.drawing.runs import Group, Run


def label_table(group: Group) -> str:
    """PNMI of the labels at the end of pretraining; empty where the corpus has no alignments."""
    methods = {name: runs for name, runs in group.of("method").items() if any(run.content["labels"] for run in runs)}
    titles = {"anchor": "anchor labels", "own": "own labels", "nearest": "nearest codes"}
    kinds = [kind for kind in titles if any(run.quality(kind) for runs in methods.values() for run in runs)]
    rows = [
        [f"`{name}`", str(len(runs)), *(cell for kind in kinds for cell in last_pnmi(runs, kind)), *best_clusters(runs)]
        for name, runs in methods.items()
    ]
    header = [*(titles[kind] for kind in kinds), "best k-means (layer)"]
    return table(("method", "seeds", *(cell for title in header for cell in (title, "by chance"))), rows) if rows else ""


def last_pnmi(runs: list[Run], kind: str) -> tuple[str, str]:
    """PNMI over seeds at the last step, and that of the same codes dealt at random."""
    rows = [found[-1] for run in runs if (found := run.quality(kind))]
    return plus_minus([row["pnmi"] for row in rows], 3), number(mean([row["pnmi_by_chance"] for row in rows]), 3)


def best_clusters(runs: list[Run]) -> tuple[str, str]:
    """As ``last_pnmi``, of k-means of the layer whose mean over seeds is the highest."""
    layers: dict[int, list[dict]] = {}
    for run in runs:
        rows = run.quality("kmeans")
        for row in rows:
            if row["step"] == rows[-1]["step"]:
                layers.setdefault(row["layer"], []).append(row)
    if not layers:
        return NOTHING, NOTHING
    best = max(layers, key=lambda layer: mean([row["pnmi"] for row in layers[layer]]))
    pnmi, chance = ([row[key] for row in layers[best]] for key in ("pnmi", "pnmi_by_chance"))
    return f"{plus_minus(pnmi, 3)} ({best})", number(mean(chance), 3)


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
