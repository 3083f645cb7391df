"""Time and memory of the plan of an epoch, of the index and of the plan of a build, by the number of utterances.

    python benchmarks/scale_data.py [--utterances 1000000 3000000] [--what epoch index build]

Manifests, tars (with members of no bytes) and headers are made up, with durations of 2 to 20 s; no audio is read. Each
measurement is a process of its own. Writes docs/results/scale_data.json.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
IN_A_SHARD = 10_000


@dataclass
class MadeUpIndex:
    """Durations and shards of an index, all that a plan reads of it."""

    durations: np.ndarray
    shards: np.ndarray

    def __len__(self) -> int:
        return len(self.durations)


def durations(number: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(2, 20, number).round(3)


def measure_epoch(number: int, folder: Path) -> float:
    """Seconds to lay out an epoch with the settings of conf/ for large corpora, buckets among them."""
    from nemo_birq.data.epoch_plan import BatchSettings, plan_epoch

    index = MadeUpIndex(durations(number), (np.arange(number) // IN_A_SHARD).astype(np.int32))
    settings = BatchSettings(batch_duration=480.0, use_bucketing=True, shuffle=True, max_duration=30.0)
    began = time.perf_counter()
    plan_epoch([index], None, settings, 0, 8)
    return time.perf_counter() - began


def measure_index(number: int, folder: Path) -> float:
    """Seconds to build the index of shards, in one process."""
    from nemo_birq.data.index import open_index
    from nemo_birq.data.sources import Source

    count, seconds = number // IN_A_SHARD, durations(number)
    for shard in range(count):
        with tarfile.open(folder / f"audio_{shard}.tar", "w") as tar, open(folder / f"manifest_{shard}.json", "w") as lines:
            for row in range(shard * IN_A_SHARD, (shard + 1) * IN_A_SHARD):
                name = f"speaker{row % 5000:05d}_{row:09d}.flac"
                tar.addfile(tarfile.TarInfo(name))
                line = {"audio_filepath": name, "duration": seconds[row], "text": "some words of a line", "shard_id": shard}
                lines.write(json.dumps(line) + "\n")
    os.environ["NEMO_BIRQ_CACHE"] = str(folder / "cache")
    pattern = f"__OP_0..{count - 1}_CL_"
    began = time.perf_counter()
    open_index(Source(f"{folder}/manifest{pattern}.json", f"{folder}/audio{pattern}.tar", None))
    return time.perf_counter() - began


def measure_build(number: int, folder: Path) -> float:
    """Seconds to plan a build, from headers that have been read, and to write the plan."""
    from nemo_birq.data.shards.headers import Header
    from nemo_birq.data.shards.plan import BuildOptions, make_plan, write_plan
    from nemo_birq.data.shards.segments import Listing, Segment

    names = [f"speaker{row % 5000:05d}/{row:09d}.flac" for row in range(number)]
    segments = [Segment(f"/data/{name}", name[:-5], name, line={"text": "some words of a line"}) for name in names]
    headers = {f"/data/{name}": Header(int(16000 * s), 16000, 1) for name, s in zip(names, durations(number), strict=True)}
    began = time.perf_counter()
    plan, contents = make_plan({"input": ["/data"]}, BuildOptions(), Listing(segments, [], {}), headers)
    write_plan(folder, plan, contents)
    return time.perf_counter() - began


MEASURES = {"epoch": measure_epoch, "index": measure_index, "build": measure_build}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, nargs="+", default=[1_000_000, 3_000_000])
    parser.add_argument("--what", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # this process measures
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "scale_data.json")
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            seconds = MEASURES[args.what[0]](args.utterances[0], Path(folder))
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
        return
    rows = []
    table = Table("what", "utterances", "seconds", "MB at most", "us an utterance")
    for what in args.what:
        for number in args.utterances:
            command = [sys.executable, __file__, "--one", "--what", what, "--utterances", str(number)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            seconds, megabytes = json.loads(printed.splitlines()[-1])
            rows.append({"what": what, "utterances": number, "seconds": round(seconds, 2), "peak_mb": round(megabytes)})
            table.add_row(what, f"{number:,}", f"{seconds:.1f}", f"{megabytes:,.0f}", f"{1e6 * seconds / number:.1f}")
    Console().print(table)
    command = (
        f"python benchmarks/scale_data.py --utterances {' '.join(map(str, args.utterances))} --what {' '.join(args.what)}"
    )
    result = {"command": command, "machine": f"{platform.machine()}, one process", "rows": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
