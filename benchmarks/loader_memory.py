"""Measures the memory of the loader over an epoch, for few and for many shards, compared with stock NeMo's reader.

    python benchmarks/loader_memory.py [--utterances 100000] [--shards 50 500] [--workers 2]

The memory includes processes, index and plan. It is PSS, in which shared pages count once over all processes. The results
are docs/results/loader_memory.json and .png.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.shards.writer import Utterance, write_shards
from nemo_birq.data.tables import cache_folder

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
SECONDS = 0.4


def make_shards(folder: Path, utterances: int, shards: int) -> None:
    """Writes shards of short utterances with the same audio."""
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).normal(size=int(SECONDS * RATE))
    soundfile.write(buffer, noise, RATE, format="OGG", subtype="OPUS")
    line = {"duration": SECONDS, "text": "a text of the length that transcripts usually have, which nobody needs here"}
    write_shards((Utterance(f"{i:08d}.opus", buffer.getvalue(), line) for i in range(utterances)), folder, shards)


def megabytes() -> float:
    """Returns the PSS of this process and its workers in MB."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes) / 1e6


def epoch(folder: Path, utterances: int, shards: int, workers: int, reader: str) -> dict:
    """Measures the memory during an epoch, relative to that before the loader is built."""
    node = {
        "use_lhotse": True, "manifest_filepath": f"{folder}/sharded_manifests/manifest__OP_0..{shards - 1}_CL_.json",
        "tarred_audio_filepaths": f"{folder}/audio__OP_0..{shards - 1}_CL_.tar", "shuffle": True, "batch_duration": 100,
        "use_bucketing": True, "num_buckets": 4, "min_duration": 0.1, "max_duration": 1.0, "num_workers": workers,
        "shuffle_buffer_size": 10000, "bucket_buffer_size": 5000,
    }  # fmt: skip
    before, began = megabytes(), time.perf_counter()
    if reader == "ours":
        loader = build_dataloader(OmegaConf.create(node), RATE, 0, 1, training=False)
    else:
        from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config

        from benchmarks.read_shards import Audio

        node |= {"shard_seed": "randomized", "concurrent_bucketing": False, "force_finite": True}
        loader = get_lhotse_dataloader_from_config(OmegaConf.create(node), 0, 1, Audio())
    start, curve, seen = time.perf_counter() - began, [], 0
    for number, batch in enumerate(loader):
        seen += len(batch[1])
        if number % 20 == 0:
            curve.append([seen, megabytes() - before])
        if seen >= utterances:  # each worker of the stock reader reads all
            break
    return {"reader": reader, "shards": shards, "workers": workers, "utterances": seen, "start_s": start, "curve": curve}


def draw(runs: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), constrained_layout=True)
    for run in runs:
        seen, memory = zip(*run["curve"], strict=True)
        style = "-" if run["reader"] == "ours" else "--"
        axes.plot(seen, memory, style, label=f"{run['reader']}, {run['shards']} shards")
    axes.set(xlabel="utterances read", ylabel="MB more than before (PSS)", title=f"Loader with {runs[0]['workers']} workers")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=100_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "loader_memory")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS, metavar=("FOLDER", "SHARDS", "READER"))
    args = parser.parse_args()
    if args.one:
        print(json.dumps(epoch(Path(args.one[0]), args.utterances, int(args.one[1]), args.workers, args.one[2])))
        return
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEMO_BIRQ_CACHE"] = f"{folder}/cache"
        for shards in args.shards:
            make_shards(Path(folder) / str(shards), args.utterances, shards)
            for reader in ("ours", "stock NeMo"):  # each in a separate process
                one = [
                    "--utterances",
                    str(args.utterances),
                    "--workers",
                    str(args.workers),
                    "--one",
                    f"{folder}/{shards}",
                    str(shards),
                    reader,
                ]
                environment = os.environ | {"PYTHONPATH": str(ROOT)}
                done = subprocess.run([sys.executable, __file__, *one], capture_output=True, text=True, env=environment)
                if done.returncode:
                    sys.exit(done.stderr)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
        index_bytes = max(path.stat().st_size for path in cache_folder().glob("*.arrow")) / args.utterances

    table = Table("reader", "shards", "utterances", "start (s)", "MB after 1/4", "MB at the end", "largest")
    for run in runs:
        memory = [value for _, value in run["curve"]]
        table.add_row(run["reader"], str(run["shards"]), str(run["utterances"]), f"{run['start_s']:.1f}",
                      f"{memory[len(memory) // 4]:.0f}", f"{memory[-1]:.0f}", f"{max(memory):.0f}")  # fmt: skip
    Console().print(table)
    print(f"index on disk: {index_bytes:.0f} MB per million utterances; plan in memory: 8 MB per million")
    command = f"python benchmarks/loader_memory.py --utterances {args.utterances} --shards {' '.join(map(str, args.shards))}"
    result = {"command": command, "index_bytes_per_utterance": index_bytes, "runs": runs}
    args.out.with_suffix(".json").write_text(json.dumps(result) + "\n")
    draw(runs, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
