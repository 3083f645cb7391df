"""Is extraction as fast as the forward pass? Times the bare forward pass on batches in memory, and the whole way of the
scripts, from shards to files, in turn in one process.

    python benchmarks/extraction.py [--config birq_conformer_tiny] [--data tarred_manifests/train] [--rounds 3] [--workers 1]

The forward pass is preprocessor and encoder up to the highest layer asked for, on the same batches. Weights are random: they
do not change the time. A small model is the hard case: reading and writing cost the same with a large one. On a busy machine
the clock says little, so the CPU time of the main thread, which runs the model in both, stands beside it: what it has
more is what the whole way does between batches. Writes docs/results/extraction.json.
"""

import argparse
import json
import platform
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from nemo.utils import logging
from rich.console import Console
from rich.table import Table

from nemo_birq import BiRQModel
from nemo_birq.extraction.data import SpeechData, batches_by_length, divide, make_loader, open_data
from nemo_birq.extraction.encoders import OpenedEncoder
from nemo_birq.extraction.features import DTYPES, FORMATS, compute_features
from nemo_birq.extraction.labels import compute_labels, write_labels
from nemo_birq.extraction.layers import encoder_lengths
from nemo_birq.extraction.run import progress_bar, run_parts
from nemo_birq.extraction.store import PartStore
from nemo_birq.layer_pass import encode_to_layer

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tarred_manifests"
BATCH_SECONDS, PART_SECONDS = 120.0, 300.0


def make_model(config: str) -> BiRQModel:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose(config, overrides=["model.train_ds=null", "model.validation_ds=null"])
    model = BiRQModel(cfg.model).eval()
    normalization = model.enhanced_labeler.normalization
    if hasattr(normalization, "num_updates"):
        normalization.num_updates += 1  # as if trained, so that its statistics are used
    return model


@torch.inference_mode()
def forward_pass(model: BiRQModel, batches: list, layer: int) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time of this thread."""
    began = time.perf_counter(), time.thread_time()
    for _, speech in batches:
        features, lengths = model.preprocessor(input_signal=speech.signal, length=speech.signal_length)
        if layer:
            encode_to_layer(model.encoder, features, lengths, layer)
        else:
            encoder_lengths(model.encoder, features, lengths)
    return time.perf_counter() - began[0], time.thread_time() - began[1]


def whole_way(data: SpeechData, compute, write, workers: int) -> tuple[float, float]:
    """Likewise."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter(), time.thread_time()
        with PartStore(Path(folder) / "out", {}, {}) as store, progress_bar(disable=True) as progress:
            done = run_parts(data, store, compute, write, progress, PART_SECONDS, BATCH_SECONDS, workers)
            store.merge(done.parts, Path(folder) / "out" / "manifest.json")
        return time.perf_counter() - began[0], time.thread_time() - began[1]


def measure(config: str, where: str, rounds: int, workers: int) -> list[dict]:
    model = make_model(config)
    data = open_data(where, None, model.cfg.sample_rate)
    durations = data.durations
    parts = divide(durations, PART_SECONDS)
    rows = [rows for part in parts for rows in batches_by_length(range(part.first, part.last), durations, BATCH_SECONDS)]
    batches = list(make_loader(data, rows, 0))
    opened, k = OpenedEncoder(model, None), model.layer
    features = partial(compute_features, opened, layers=[k // 2, k], dtype=DTYPES["float16"])
    ways = {
        f"features of layers {k // 2} and {k}, npz": (features, FORMATS["npz"], k),
        f"features of layers {k // 2} and {k}, Lhotse": (features, FORMATS["lhotse"], k),
        "enhanced labels": (partial(compute_labels, model, kind="enhanced"), write_labels("enhanced"), k),
        "anchor labels": (partial(compute_labels, model, kind="anchor"), write_labels("anchor"), 0),
    }
    times: dict[str, list[tuple[float, ...]]] = {way: [] for way in ways}
    forward_pass(model, batches[:2], k)  # warms up
    for _ in range(rounds):
        for way, (compute, write, layer) in ways.items():
            times[way].append((*forward_pass(model, batches, layer), *whole_way(data, compute, write, workers)))
    depth = len(model.encoder.layers)
    full = forward_pass(model, batches, depth)[1]
    return [_row(config, way, ways[way][2], depth, float(durations.sum()), full, found) for way, found in times.items()]


def _row(config: str, way: str, layers: int, depth: int, seconds: float, full: float, found: list) -> dict:
    forward, forward_cpu, whole, whole_cpu = (median(values) for values in zip(*found, strict=True))
    return {
        "model": config, "what": way, "depth": depth, "layers_run": layers, "audio_seconds": seconds,
        "forward_s": forward, "whole_way_s": whole, "ratio": median(w / f for f, _, w, _ in found),
        "forward_cpu_s": forward_cpu, "whole_way_cpu_s": whole_cpu, "cpu_ratio": median(w / f for _, f, _, w in found),
        "times_real_time": seconds / whole, "full_depth_cpu_s": full, "all": found,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="birq_conformer_tiny")
    parser.add_argument("--data", default=str(CORPUS / "train"), help="manifest, or folder of shards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "extraction.json")
    args = parser.parse_args()
    logging.setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows = measure(args.config, args.data, args.rounds, args.workers)

    table = Table("model", "what", "layers run", "forward pass (s)", "whole way (s)", "ratio", "CPU ratio", "x real time",
                  title="Extraction beside the bare forward pass")  # fmt: skip
    for row in rows:
        numbers = (row[key] for key in ("forward_s", "whole_way_s", "ratio", "cpu_ratio", "times_real_time"))
        table.add_row(row["model"], row["what"], f"{row['layers_run']} of {row['depth']}", *(f"{n:.2f}" for n in numbers))
    Console(width=130).print(table)
    command = f"python benchmarks/extraction.py --rounds {args.rounds} --workers {args.workers}"
    result = {"command": command, "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread a process",
              "rows": rows}  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
