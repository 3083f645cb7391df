"""Measures the share of padding in the batches of an epoch: buckets of equal hours, and NeMo's, which are evenly spaced.

    python benchmarks/padding.py embedded=tarred_manifests/train/sharded_manifests mine=/data/train.json

A corpus is a manifest or a folder of manifests; only the durations are read. The settings are those of conf/base.yaml with
other lengths of a batch and numbers of buckets. The results are added to docs/results/padding.json under the corpus's name.
"""

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig, determine_bucket_duration_bins
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from nemo_birq.data.epoch_batches import BatchSettings, EpochPart, duration_bins, make_batches
from nemo_birq.data.manifests import read_manifest
from nemo_birq.utils.files import write_json

ROOT = Path(__file__).resolve().parents[1]
BASE = OmegaConf.load(ROOT / "conf" / "base.yaml").model.train_ds
KEPT = ("min_duration", "max_duration", "bucket_buffer_size", "shuffle_buffer_size", "shuffle", "use_bucketing")
BATCHES = (30.0, 120.0, 600.0)  # seconds
BUCKETS = (4, 8, 20, 30)


def durations_of(corpus: Path) -> np.ndarray:
    """Returns the durations of all utterances in seconds, (N,) float64."""
    files = sorted(corpus.glob("*.json*")) if corpus.is_dir() else [corpus]
    return np.array([line["duration"] for file in files for line in read_manifest(str(file))])


def padding(durations: np.ndarray, settings: BatchSettings) -> float:
    """Returns the share of padding in the batches of an epoch."""
    order = np.random.default_rng(0).permutation(len(durations))
    part = EpochPart(order, durations[order], duration_bins(durations, settings), settings, seed=0, world_size=1)
    rows, ends = make_batches(part)
    padded = sum(len(batch) * durations[batch].max() for batch in np.split(rows, ends[:-1]))
    return float(1 - durations.sum() / padded)


def measure(durations: np.ndarray) -> list[dict]:
    """Returns the padding for each length of a batch and number of buckets, with buckets of equal hours and with NeMo's."""
    durations = durations[(durations >= BASE.min_duration) & (durations <= BASE.max_duration)]
    rows = []
    for seconds in (seconds for seconds in BATCHES if seconds * 10 <= durations.sum()):
        for buckets in BUCKETS:
            node = {key: BASE[key] for key in KEPT} | {"batch_duration": seconds, "num_buckets": buckets}
            equal = BatchSettings(**node)
            nemo = determine_bucket_duration_bins(OmegaConf.merge(OmegaConf.structured(LhotseDataLoadingConfig), node))
            found = {
                "equal_hours": round(padding(durations, equal), 4),
                "evenly_spaced": round(padding(durations, replace(equal, bucket_duration_bins=nemo)), 4),
            }
            rows.append({"batch_seconds": seconds, "buckets": buckets} | found)
    return rows


@click.command(help=__doc__)
@click.argument("corpora", nargs=-1, required=True, metavar="NAME=MANIFEST...")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "results" / "padding.json")
def main(corpora: tuple[str, ...], out: Path) -> None:
    result = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"command": "", "corpora": {}}
    result["command"] = "python benchmarks/padding.py NAME=MANIFEST..."
    for name, _, place in (corpus.partition("=") for corpus in corpora):
        durations = durations_of(Path(place))
        rows = measure(durations)
        result["corpora"][name] = {
            "utterances": len(durations), "hours": round(durations.sum() / 3600, 2),
            "mean_seconds": round(durations.mean(), 2), "rows": rows,
        }  # fmt: skip
        table = Table("seconds of a batch", "buckets", "equal hours", "evenly spaced (NeMo)", title=f"Padding: {name}")
        for row in rows:
            shares = (f"{row[key]:.1%}" for key in ("equal_hours", "evenly_spaced"))
            table.add_row(f"{row['batch_seconds']:g}", str(row["buckets"]), *shares)
        Console().print(table)
    write_json(out, result)


if __name__ == "__main__":
    main()
