"""The dataset card, which describes a shard set and the utterances that were left out."""

from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
import soxr

from nemo_birq.data.shards.plan import Plan
from nemo_birq.data.shards.source import of_any_machine

_MOST_BINS = 60
_MOST_NAMED = 100  # repaired utterances of each kind
_WIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0)  # seconds


def make_card(plan: Plan, records: list[dict], files: dict[str, str]) -> dict:
    """Makes the content of ``dataset_card.json``; the same build gives the same card.

    Args:
        plan: plan of the build.
        records: records of all shards, see ``shard_job``.
        files: SHA-256 of every tar and manifest, by path relative to the output folder.
    """
    durations = np.array([duration for record in records for duration in record["durations"]])
    remedies = sorted(tuple(entry) for record in records for entry in record.get("remedies", ()))  # older records have none
    # A record from a file has lists, a new one has tuples.
    skipped = sorted(tuple(entry) for entry in [*plan.skipped, *(e for record in records for e in record["skipped"])])
    bounds = _bounds(durations.max(initial=1.0))
    options = plan.options
    return {
        "utterances": len(durations),
        "hours": round(durations.sum() / 3600, 6),
        "shards": {
            f"{shard.folder}/audio_{shard.shard_id}.tar".removeprefix("./"): {
                "utterances": len(record["durations"]),
                "hours": round(sum(record["durations"]) / 3600, 6),
                "bytes": record["bytes"],
            }
            for shard, record in zip(plan.shards, records, strict=True)
            if not options["single_files"]
        },
        "bytes": sum(record["bytes"] for record in records),
        "codec": options["codec"],
        "sample_rate": options["sample_rate"],
        "seed": options["seed"],
        "options": options,
        "source": of_any_machine(plan.source),
        "long_recordings": plan.cuts,
        "too_short": plan.too_short | {"below_seconds": options["min_duration"]},
        "bucket_limits_seconds": plan.bucket_limits,
        "duration_seconds": _summary(durations),
        "duration_histogram": {
            "bounds_seconds": [round(bound, 3) for bound in bounds.tolist()],
            "utterances": np.histogram(durations, bounds)[0].tolist(),
            "hours": [round(h, 6) for h in (np.histogram(durations, bounds, weights=durations)[0] / 3600).tolist()],
        },
        "sample_rates_seen": _total(records, "sample_rates"),
        "channels_seen": _total(records, "channels"),
        "bandwidth_hours": {hz: round(s / 3600, 6) for hz, s in _total(records, "bandwidth_seconds").items()},
        "clipped_sample_share": _sum(records, "clipped_samples") / max(1, _sum(records, "samples")),
        "utterances_with_clipping": _sum(records, "utterances_with_clipping"),
        "skipped_share": len(skipped) / max(1, len(skipped) + len(durations)),
        "skipped_kinds": dict(sorted(Counter(kind for _, kind, _ in skipped).items())),
        "skipped": [{"name": name, "kind": kind, "reason": reason} for name, kind, reason in skipped],
        "not_taken": plan.not_taken,
        "remedies": _remedies(remedies),
        "remedied": _first_of_each_kind(remedies),
        "versions": {"libsndfile": soundfile.__libsndfile_version__, "soxr": soxr.__version__},
        "sha256": dict(sorted(files.items())),
    }


def _bounds(longest: float) -> np.ndarray:
    """Returns bounds of bins with a round width, from 0 to above the longest duration, in seconds."""
    width = next((width for width in _WIDTHS if longest < width * _MOST_BINS), longest / _MOST_BINS)
    number = int(np.floor(round(longest / width, 6))) + 1  # rounded, because 3 // 0.1 is 29
    return np.round(width * np.arange(number + 1), 6)


def _summary(durations: np.ndarray) -> dict:
    if not len(durations):
        return {}
    low, median, high = np.percentile(durations, [5, 50, 95])
    values = {"least": durations.min(), "5%": low, "median": median, "mean": durations.mean(), "95%": high}
    return {name: round(float(value), 3) for name, value in (values | {"most": durations.max()}).items()}


def _remedies(entries: list[tuple[str, str, str, float]]) -> dict:
    """Returns the number and the hours of repaired utterances by the kind of repair."""
    found: dict[str, dict] = {}
    for _, kind, _, seconds in sorted(entries, key=lambda entry: entry[1]):
        total = found.setdefault(kind, {"utterances": 0, "hours": 0.0})
        total["utterances"] += 1
        total["hours"] += seconds / 3600
    return {kind: total | {"hours": round(total["hours"], 6)} for kind, total in found.items()}


def _first_of_each_kind(entries: list[tuple[str, str, str, float]]) -> list[dict]:
    """Returns the first ``_MOST_NAMED`` names with reasons of each kind, because a whole corpus may need repairs."""
    named: Counter = Counter()
    found = []
    for name, kind, reason, seconds in entries:
        named[kind] += 1
        if named[kind] <= _MOST_NAMED:
            found.append({"name": name, "kind": kind, "reason": reason, "seconds": seconds})
    return found


def _sum(records: list[dict], key: str) -> int:
    return sum(record[key] for record in records)


def _total(records: list[dict], key: str) -> dict:
    return dict(sorted(sum((Counter(record.get(key, {})) for record in records), Counter()).items()))


def draw_durations(card: dict, path: Path) -> None:
    """Draws histograms of the durations, by number of utterances and by hours of audio."""
    from matplotlib.figure import Figure  # pyplot would open windows and keep a global state

    histogram = card["duration_histogram"]
    bounds = np.array(histogram["bounds_seconds"])
    unit, factor = ("hours", 1) if card["hours"] >= 10 else ("minutes", 60)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    panels = (("utterances", histogram["utterances"], "#33658a"), (unit, np.multiply(histogram["hours"], factor), "#f26419"))
    for ax, (label, heights, color) in zip(axes, panels, strict=True):
        ax.bar(bounds[:-1], heights, np.diff(bounds), align="edge", color=color, edgecolor="white", linewidth=0.5)
        ax.set_ylabel(f"{label} per {bounds[1]:.3g} s")
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        for limit in card["bucket_limits_seconds"][:-1]:
            ax.axvline(limit, color="#444444", linestyle="--", linewidth=1)
    if len(card["bucket_limits_seconds"]) > 1:
        axes[0].plot([], [], color="#444444", linestyle="--", linewidth=1, label="limits of the buckets")
        figure.legend(loc="outside lower right", frameon=False)
    axes[1].set_xlabel("length of an utterance, seconds")
    axes[1].set_xlim(0, bounds[-1])
    median = card["duration_seconds"].get("median", 0)
    total = f"{card['hours'] * factor:,.1f} {unit}"
    axes[0].set_title(f"{card['utterances']:,} utterances, {total}, half of them below {median:.1f} s")
    figure.savefig(path, dpi=110)
