"""Tables of label quality and of the cost of pretraining."""

from experiments.drawing.markdown import NOTHING, duration, mean, number, plus_minus, table
from experiments.drawing.records import Group, Record


def label_table(group: Group) -> str:
    """Formats the PNMI of the labels at the end of pretraining; empty if the corpus has no alignments."""
    methods = {
        name: records for name, records in group.of("method").items() if any(record.content["labels"] for record in records)
    }
    titles = {"anchor": "anchor labels", "own": "own labels", "nearest": "nearest codes"}
    kinds = [kind for kind in titles if any(record.quality(kind) for records in methods.values() for record in records)]
    rows = []
    for name, records in methods.items():
        cells = [cell for kind in kinds for cell in last_pnmi(records, kind)]
        rows.append([f"`{name}`", str(len(records)), *cells, *best_clusters(records)])
    header = [*(titles[kind] for kind in kinds), "best k-means (layer)"]
    return table(("method", "seeds", *(cell for title in header for cell in (title, "by chance"))), rows) if rows else ""


def last_pnmi(records: list[Record], kind: str) -> tuple[str, str]:
    """Formats the PNMI over seeds at the last step, and that of the same codes in random order."""
    rows = [found[-1] for record in records if (found := record.quality(kind))]
    return plus_minus([row["pnmi"] for row in rows], 3), number(mean([row["pnmi_by_chance"] for row in rows]), 3)


def best_clusters(records: list[Record]) -> tuple[str, str]:
    """Formats the same for k-means of the layer whose mean over seeds is the highest."""
    layers: dict[int, list[dict]] = {}
    for record in records:
        rows = record.quality("kmeans")
        for row in rows:
            if row["step"] == rows[-1]["step"]:
                layers.setdefault(row["layer"], []).append(row)
    if not layers:
        return NOTHING, NOTHING
    best = max(layers, key=lambda layer: mean([row["pnmi"] for row in layers[layer]]))
    pnmi, chance = ([row[key] for row in layers[best]] for key in ("pnmi", "pnmi_by_chance"))
    return f"{plus_minus(pnmi, 3)} ({best})", number(mean(chance), 3)


def cost_table(group: Group) -> str:
    """Formats the time and memory of pretraining, the mean over seeds; empty if nothing was pretrained."""
    rows = []
    for name, records in group.of("method").items():
        trained = [record for record in records if record.stages]
        if not trained:
            continue
        steps = " + ".join(f"{stage['steps']:,}" for stage in trained[0].stages if stage["steps"])
        hours = mean([sum(stage["audio_hours_seen"] or 0 for stage in record.stages) or None for record in trained])
        times = [duration(mean([record.spent(key) for record in trained])) for key in ("seconds", "processor_seconds")]
        memory = max((peak for record in trained if (peak := record.peak_memory_gb) is not None), default=None)
        alarms = sum(len(stage["alarms"]) for record in trained for stage in record.stages)
        rows.append([f"`{name}`", steps, number(hours, 1), *times, number(memory, 1), str(alarms)])
    header = ("pretraining", "steps", "hours of audio seen", "wall time", "processor time", "peak memory, GB", "alarms")
    return table(header, rows) if rows else ""
