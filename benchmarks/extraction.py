"""Compares the speed of extraction with that of the forward pass.

    python benchmarks/extraction.py [--data tarred_manifests/train] [--minutes 10] [--rounds 3] [--workers 1]

In turn in one process, the benchmark times the bare forward pass on batches in memory, and the whole extraction from shards
to files, with FLAC shards as make_shards.py writes them, and with Opus. The forward pass is the preprocessor and the encoder
up to the highest requested layer, or only the preprocessor for anchor labels. Weights are random, which does not change the
time. A small model is the hard case, because reading and writing cost the same with a large one. The benchmark also reports
processor time, because other programs affect wall time: the time of this process, which runs the model and writes, and that
of the workers, which read and decode in parallel. With enough idle cores, extraction takes the longer of the two. The result
is docs/results/extraction.json.
"""

import argparse
import json
import platform
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from hydra import compose, initialize_config_dir
from nemo.utils import logging
from rich.console import Console
from rich.table import Table

from nemo_birq import BiRQModel
from nemo_birq.data.dataset import SpeechDataset
from nemo_birq.data.shards.writer import Utterance, write_shards
from nemo_birq.extraction.data import RowBatch, SpeechData, batches_by_length, divide, make_loader, open_data
from nemo_birq.extraction.features import DTYPES, FORMATS, compute_features
from nemo_birq.extraction.labels import compute_labels, write_labels
from nemo_birq.extraction.run import Compute, Write, progress_bar, run_parts
from nemo_birq.extraction.store import PartStore
from nemo_birq.loading import LoadedEncoder
from nemo_birq.modules.layer_pass import encode_to_layer

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tarred_manifests"
BATCH_SECONDS, PART_SECONDS = 120.0, 300.0
CODECS = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}


def make_model(config: str) -> BiRQModel:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose(config, overrides=["model.train_ds=null", "model.validation_ds=null"])
    model = BiRQModel(cfg.model).eval()
    normalization = model.enhanced_labeler.normalization
    if hasattr(normalization, "num_updates"):
        normalization.num_updates += 1  # as if trained, so that its statistics are used
    return model


def encode_as(codec: str, data: SpeechData, seconds: float, folder: Path) -> SpeechData:
    """Writes shards of the first utterances in another format."""
    container, subtype = CODECS[codec]
    dataset, utterances = SpeechDataset(data.indexes, data.sample_rate), []
    began = np.cumsum(data.durations) - data.durations
    for row in np.flatnonzero(began < seconds).tolist():
        signal = dataset[[row]].signal[0].numpy()
        buffer = BytesIO()
        soundfile.write(buffer, signal, data.sample_rate, format=container, subtype=subtype)
        line = {"duration": len(signal) / data.sample_rate}
        utterances.append(Utterance(f"{row:06d}.{codec}", buffer.getvalue(), line))
    write_shards(utterances, folder / codec, 4)
    return open_data(str(folder / codec), None, data.sample_rate)


class Times(NamedTuple):
    """In seconds."""

    clock: float
    process: float
    """Processor time of this process, all its threads."""
    workers: float
    """Processor time of the processes that decode."""


def timed(action: Callable[[], None]) -> Times:
    def now() -> tuple[float, ...]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), time.process_time(), ended.ru_utime + ended.ru_stime

    began = now()
    action()
    return Times(*(end - start for end, start in zip(now(), began, strict=True)))


@torch.inference_mode()
def forward_pass(model: BiRQModel, batches: list[RowBatch], layer: int) -> None:
    for _, speech in batches:
        features, lengths = model.preprocessor(input_signal=speech.signal, length=speech.signal_length)
        if layer:
            encode_to_layer(model.encoder, features, lengths, layer)


def whole_way(data: SpeechData, compute: Compute, write: Write, workers: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        PartStore(Path(folder) / "out", {}, {}) as store,
        progress_bar(disable=True) as progress,
    ):
        done = run_parts(data, store, compute, write, progress, PART_SECONDS, BATCH_SECONDS, workers)
        store.merge(done.parts, Path(folder) / "out" / "manifest.json")


def measure(config: str, where: str, seconds: float, rounds: int, workers: int) -> list[dict]:
    model = make_model(config)
    data = open_data(where, None, model.cfg.sample_rate)
    opened, k = LoadedEncoder(model), model.layer
    features = partial(compute_features, opened, layers=[k // 2, k], dtype=DTYPES["float16"])
    ways = {
        f"features of layers {k // 2} and {k}, npz": (features, FORMATS["npz"], k),
        f"features of layers {k // 2} and {k}, Lhotse": (features, FORMATS["lhotse"], k),
        "enhanced labels": (partial(compute_labels, model, kind="enhanced"), write_labels("enhanced"), k),
        "anchor labels": (partial(compute_labels, model, kind="anchor"), write_labels("anchor"), 0),
    }
    with tempfile.TemporaryDirectory() as folder:
        sources = {codec: encode_as(codec, data, seconds, Path(folder)) for codec in CODECS}
        durations = sources["flac"].durations
        parts = [range(part.first, part.last) for part in divide(durations, PART_SECONDS)]
        rows = [batch for part in parts for batch in batches_by_length(part, durations, BATCH_SECONDS)]
        batches = list(make_loader(sources["flac"], rows, 0))
        found: dict[tuple[str, str], list[tuple[Times, Times]]] = {case: [] for case in product(CODECS, ways)}
        forward_pass(model, batches[:2], k)  # warms up
        for _ in range(rounds):
            for (codec, way), times in found.items():
                compute, write, layer = ways[way]
                bare = timed(partial(forward_pass, model, batches, layer))
                times.append((bare, timed(partial(whole_way, sources[codec], compute, write, workers))))
    about = {"model": config, "depth": len(model.encoder.layers), "audio_seconds": float(durations.sum())}
    return [
        about | {"codec": codec, "what": way, "layers_run": ways[way][2]} | summary(times)
        for (codec, way), times in found.items()
    ]


def summary(rounds: list[tuple[Times, Times]]) -> dict:
    """Returns medians over the rounds."""
    return {
        "forward_s": median(bare.clock for bare, _ in rounds),
        "whole_way_s": median(whole.clock for _, whole in rounds),
        "ratio": median(whole.clock / bare.clock for bare, whole in rounds),
        "forward_processor_s": median(bare.process for bare, _ in rounds),
        "whole_way_processor_s": median(whole.process for _, whole in rounds),
        "processor_ratio": median(whole.process / bare.process for bare, whole in rounds),
        "workers_processor_s": median(whole.workers for _, whole in rounds),
        "rounds": [{"forward": bare._asdict(), "whole_way": whole._asdict()} for bare, whole in rounds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="birq_conformer_tiny")
    parser.add_argument("--data", default=str(CORPUS / "train"), help="manifest, or folder of shards")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of audio from the beginning of the data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "extraction.json")
    args = parser.parse_args()
    logging.setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows = measure(args.config, args.data, 60 * args.minutes, args.rounds, args.workers)

    table = Table("audio", "what", "layers run", "forward", "whole way", "ratio", "forward", "whole way", "ratio", "workers",
                  title="Extraction and the bare forward pass: by the clock (s), then processor time (s)")  # fmt: skip
    for row in rows:
        numbers = (row[key] for key in ("forward_s", "whole_way_s", "ratio", "forward_processor_s", "whole_way_processor_s",
                                        "processor_ratio", "workers_processor_s"))  # fmt: skip
        table.add_row(row["codec"], row["what"], f"{row['layers_run']} of {row['depth']}", *(f"{n:.2f}" for n in numbers))
    Console(width=140).print(table)
    result = {"command": shlex.join(["python", *sys.argv]),
              "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread a process", "rows": rows}  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
