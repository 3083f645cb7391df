"""Bytes, requests and workers that reading needs to keep GPUs busy, from counted operations and measured reading.

    python benchmarks/reading_budget.py [--config birq_conformer_large] [--gpus 8] [--utilization 8 12 20]

A GPU trains on (peak x utilization / operations of a second of audio) seconds of audio a second. Operations are counted
from tensor shapes (step_counts.py), sizes come from docs/results/build_speed.json, the speed of a worker from
read_speed.json, and the requests from the plan of an epoch of 300,000 utterances of 2 to 20 s in shards of an hour with the
buffers of conf/base.yaml: neighbours in a shard are one request. Writes docs/results/reading_budget.json.
"""

import argparse
import json
from dataclasses import dataclass

import numpy as np
from fsspec.utils import merge_offset_ranges
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from step_counts import count_step
from step_variants import ROOT, Setting

from nemo_birq.data.epoch_batches import BatchSettings
from nemo_birq.data.epoch_plan import plan_epoch
from nemo_birq.data.remote import BLOCK, GAP

PEAK = {"H100": 989e12, "A100": 312e12}  # FLOP/s, bfloat16 without sparsity, of the SXM modules
UTTERANCES, BATCHES = 300_000, 1_000
BASE = OmegaConf.load(ROOT / "conf" / "base.yaml").model.train_ds
BUFFERS = {key: BASE[key] for key in ("num_buckets", "bucket_buffer_size", "shuffle_buffer_size")}
RESULTS = ROOT / "docs/results"


@dataclass
class MadeUpIndex:
    """Durations and shards of an index, all that a plan reads of it."""

    durations: np.ndarray
    shards: np.ndarray

    def __len__(self) -> int:
        return len(self.durations)


def requests_per_utterance(sizes: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Returns for each codec the requests of an utterance, and the bytes that are read for each byte of it.

    Args:
        sizes: MB of an hour by codec.
    """
    seconds = np.random.default_rng(0).uniform(2, 20, UTTERANCES).round(3)
    index = MadeUpIndex(seconds, (np.cumsum(seconds) // 3600).astype(np.int32))
    settings = BatchSettings(batch_duration=600, use_bucketing=True, shuffle=True, **BUFFERS)
    batches = plan_epoch([index], None, settings, 0, 8).batches(0, BATCHES)
    found = {}
    for codec, mb_per_hour in sizes.items():
        length = (seconds * mb_per_hour * 1e6 / 3600).astype(int)
        ends = np.cumsum(length + 1024)  # with the headers of members
        starts, blocks, read = ends - length, 0, 0
        for rows in batches:
            places = [index.shards[rows].astype(str).tolist(), starts[rows].tolist(), ends[rows].tolist()]
            merged = merge_offset_ranges(*places, max_gap=GAP, max_block=BLOCK)
            blocks, read = blocks + len(merged[0]), read + sum(merged[2]) - sum(merged[1])
        rows = np.concatenate(batches)
        found[codec] = blocks / len(rows), float(read / length[rows].sum())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="birq_conformer_large")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--utilization", type=float, nargs="+", default=[8, 12, 20], help="of the peak, in percent")
    parser.add_argument("--utterance-seconds", type=float, default=11.0)
    args = parser.parse_args()
    setting = Setting(args.config, batch_seconds=30 * args.utterance_seconds, utterance_seconds=args.utterance_seconds)
    flop = count_step(setting).flop / setting.batch_seconds
    built = json.loads((RESULTS / "build_speed.json").read_text())
    sizes = {row["codec"]: row["megabytes_per_hour"] for row in built["results"]}
    reading = json.loads((RESULTS / "read_speed.json").read_text())["reading"]
    speeds = {
        codec: row["times_real_time"]
        for codec in sizes
        for row in reading
        if (row["data"], row["reader"], row["workers"]) == (f"{codec} shards", "ours", 1)
    }
    requests = requests_per_utterance(sizes)
    rows = []
    table = Table("GPU", "utilization", "hours an hour", "codec", "MB/s", "requests/s", "workers a GPU")
    for gpu, peak in PEAK.items():
        for share in args.utilization:
            hours = args.gpus * peak * share / 100 / flop
            for codec in sizes:
                each, extra = requests[codec]
                row = {
                    "gpu": gpu, "gpus": args.gpus, "utilization_percent": share, "hours_an_hour": round(hours),
                    "codec": codec,
                    "mb_per_s": round(hours * sizes[codec] * extra / 3600, 1),
                    "requests_per_s": round(hours / args.utterance_seconds * each),
                    "workers_per_gpu": round(hours / speeds[codec] / args.gpus, 2),
                }  # fmt: skip
                rows.append(row)
                table.add_row(gpu, f"{share:g} %", f"{hours:,.0f}", codec, *(f"{row[key]:g}" for key in list(row)[5:]))
    result = {
        "command": "python benchmarks/reading_budget.py",
        "config": args.config,
        "flop_per_second_of_audio": flop,
        "utterance_seconds": args.utterance_seconds,
        "mb_per_hour": sizes,
        "hours_an_hour_of_a_worker": speeds,
        "requests_per_utterance_and_bytes_read_per_byte": requests,
        "rows": rows,
    }
    (RESULTS / "reading_budget.json").write_text(json.dumps(result, indent=1) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
