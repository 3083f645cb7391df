"""Is extraction as fast as the forward pass? Times the bare forward pass on batches in memory, and the whole way of the
scripts, from shards to files, in turn in one process.

    python benchmarks/extraction.py [--configs birq_conformer_tiny birq_conformer_large] [--rounds 3] [--workers 1]

The forward pass is preprocessor and encoder up to the highest layer asked for, on the same batches. Weights are random: they
do not change the time. Writes docs/results/extraction.json.
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
def forward_pass(model: BiRQModel, batches: list, layer: int) -> float:
    began = time.perf_counter()
    for _, speech in batches:
        features, lengths = model.preprocessor(input_signal=speech.signal, length=speech.signal_length)
        if layer:
            encode_to_layer(model.encoder, features, lengths, layer)
        else:
            encoder_lengths(model.encoder, features, lengths)
    return time.perf_counter() - began


def whole_way(data: SpeechData, compute, write, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with PartStore(Path(folder) / "out", {}, {}) as store, progress_bar(disable=True) as progress:
            done = run_parts(data, store, compute, write, progress, PART_SECONDS, BATCH_SECONDS, workers)
            store.merge(done.parts, Path(folder) / "out" / "manifest.json")
        return time.perf_counter() - began


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
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, (compute, write, layer) in ways.items():
            found = forward_pass(model, batches, layer), whole_way(data, compute, write, workers)
            if number:  # the first warms up
                times[way].append(found)
    full = [forward_pass(model, batches, len(model.encoder.layers)) for _ in range(rounds)]
    seconds = float(durations.sum())
    return [
        {
            "model": config, "what": way, "depth": len(model.encoder.layers), "layers_run": ways[way][2],
            "audio_seconds": seconds, "forward_s": median(f for f, _ in found), "whole_way_s": median(w for _, w in found),
            "ratio": median(w / f for f, w in found), "times_real_time": seconds / median(w for _, w in found),
            "full_forward_s": median(full), "all": found,
        }
        for way, found in times.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["birq_conformer_tiny", "birq_conformer_large"])
    parser.add_argument("--data", nargs="+", default=[str(CORPUS / "train"), str(CORPUS / "test" / "test.json")],
                        help="manifest or folder of shards for each configuration")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "extraction.json")
    args = parser.parse_args()
    logging.setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows = [row for config, where in zip(args.configs, args.data, strict=True)
            for row in measure(config, where, args.rounds, args.workers)]  # fmt: skip

    table = Table("model", "what", "layers run", "forward pass (s)", "whole way (s)", "ratio", "x real time",
                  title="Extraction beside the bare forward pass")  # fmt: skip
    for row in rows:
        table.add_row(row["model"], row["what"], f"{row['layers_run']} of {row['depth']}", f"{row['forward_s']:.2f}",
                      f"{row['whole_way_s']:.2f}", f"{row['ratio']:.2f}", f"{row['times_real_time']:.0f}")  # fmt: skip
    Console(width=130).print(table)
    command = f"python benchmarks/extraction.py --rounds {args.rounds} --workers {args.workers}"
    result = {"command": command, "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread a process",
              "rows": rows}  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
