"""Measures the speed of reading flac, opus and wav shards and single files, and the time that training steps wait for data.

    python benchmarks/read_shards.py [--data manifest.json] [--seconds 12] [--rounds 3] [--steps 20] [--large-steps 2]
    python -m benchmarks.read_shards --remote 1 2 4 [--latency 0.05] [--failing 0.05] [--stores http rclone] [--rounds 3]

Clips of the manifest (single files; default: the embedded corpus) are joined to utterances of about ``--seconds``. All
ways are timed in turn, round after round, in one process. Writes docs/results/read_speed.json.

``--remote`` compares flac shards on this machine with the same behind servers, see ``remote_reading``. Writes
docs/results/remote_speed.json.
"""

import argparse
import io
import json
import platform
import tempfile
import time
from pathlib import Path
from statistics import median

import lightning.pytorch as pl
import numpy as np
import soundfile
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.profilers import SimpleProfiler
from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from nemo_birq import BiRQModel
from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.manifests import check_manifest_of_files
from nemo_birq.data.shards.writer import Utterance, write_shards

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
RATE = 16000
FORMATS = {"flac": ("FLAC", "PCM_16"), "wav": ("WAV", "PCM_16"), "opus": ("OGG", "OPUS")}


def joined_clips(manifest: Path, seconds: float) -> list[np.ndarray]:
    clips, current, length = [], [], 0
    for line in check_manifest_of_files(str(manifest)):
        signal, rate = soundfile.read(manifest.parent / line["audio_filepath"], dtype="float32")
        assert rate == RATE, f"{line['audio_filepath']} has {rate} Hz"
        current.append(signal)
        length += len(signal)
        if length >= seconds * RATE:
            clips.append(np.concatenate(current))
            current, length = [], 0
    return clips


def write_format(clips: list[np.ndarray], name: str, folder: Path) -> dict[str, dict]:
    """Writes shards and single files of one format; returns their loader configurations."""
    container, subtype = FORMATS[name]
    utterances, lines, encoded = [], [], {}
    (folder / name / "files").mkdir(parents=True)
    for number, clip in enumerate(clips):
        if id(clip) not in encoded:  # clips are repeated
            buffer = io.BytesIO()
            soundfile.write(buffer, clip, RATE, format=container, subtype=subtype)
            encoded[id(clip)] = buffer.getvalue()
        member, line = f"{number:06d}.{name}", {"duration": len(clip) / RATE}
        utterances.append(Utterance(member, encoded[id(clip)], line))
        (folder / name / "files" / member).write_bytes(encoded[id(clip)])
        lines.append(json.dumps({"audio_filepath": f"files/{member}"} | line))
    write_shards(utterances, folder / name / "shards", 4)
    (folder / name / "files.json").write_text("\n".join(lines))
    shards = folder / name / "shards"
    return {
        f"{name} shards": {
            "manifest_filepath": f"{shards}/sharded_manifests/manifest__OP_0..3_CL_.json",
            "tarred_audio_filepaths": f"{shards}/audio__OP_0..3_CL_.tar",
        },
        f"{name} single files": {"manifest_filepath": str(folder / name / "files.json")},
    }


class Audio(torch.utils.data.Dataset):
    """Dataset that loads a batch of cuts like stock NeMo."""

    def __init__(self):
        from lhotse.dataset import AudioSamples

        self.load = AudioSamples(fault_tolerant=True)

    def __getitem__(self, cuts):
        signal, lengths, _ = self.load(cuts)
        return signal, lengths


SETTINGS = {
    "use_lhotse": True, "shuffle": True, "batch_duration": 200, "use_bucketing": True, "num_buckets": 4,
    "bucket_buffer_size": 100, "shuffle_buffer_size": 100, "min_duration": 0.1, "max_duration": 60.0,
}  # fmt: skip


def read_ours(source: dict, workers: int) -> float:
    """Returns the seconds of audio per second, over one epoch after the loader has started."""
    loader = build_dataloader(OmegaConf.create(SETTINGS | source | {"num_workers": workers}), RATE, 0, 1, training=False)
    return rate_of((batch.signal_length for batch in loader), workers)


def read_stock(source: dict, workers: int) -> float:
    streaming = {"shard_seed": 0, "concurrent_bucketing": False, "force_finite": True}
    config = SETTINGS | source | streaming | {"num_workers": workers}
    loader = get_lhotse_dataloader_from_config(OmegaConf.create(config), 0, 1, Audio())
    return rate_of((lengths for _, lengths in loader), workers)


def rate_of(lengths_of_batches, workers: int) -> float:
    """Measures from the first batch that is not prefetched to the last one, without start and buffers."""
    samples, began = 0, None
    for number, lengths in enumerate(lengths_of_batches):
        if number == 2 * workers:  # two for each worker, by PyTorch's prefetch_factor
            began = time.perf_counter()
        elif began is not None:
            samples += int(lengths.sum())
    return samples / RATE / (time.perf_counter() - began)


def waits_of_training(config: str, source: dict, steps: int, batch_duration: float, workers: int) -> dict:
    overrides = [f"model.train_ds.{key}={value}" for key, value in source.items()]
    train_ds = {"batch_duration": batch_duration, "pin_memory": "false", "num_workers": workers, "max_duration": 60}
    overrides += [f"model.train_ds.{key}={value}" for key, value in train_ds.items()] + ["model.validation_ds=null"]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose(config, overrides=overrides)
    profiler = SimpleProfiler()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        profiler=profiler, enable_model_summary=False, use_distributed_sampler=False, log_every_n_steps=10**6,
    )  # fmt: skip
    trainer.fit(BiRQModel(cfg=cfg.model, trainer=trainer))
    waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"][1:]  # the first one fills the pipeline
    wait, step = median(waits), median(profiler.recorded_durations["run_training_batch"][1:])
    return {"model": config, "workers": workers, "batch_seconds": batch_duration, "step_s": step, "wait_s": wait,
            "longest_wait_s": max(waits), "waiting_share": wait / (wait + step)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "tarred_manifests" / "validation" / "validation.json")
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="length of the utterances (LibriSpeech: 12.3 on average)"
    )
    parser.add_argument("--repeat", type=int, default=1, help="number of copies of the clips, for a longer epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="number of steps of the tiny model")
    parser.add_argument(
        "--large-steps", type=int, default=0, help="number of steps of the large model, each of which takes minutes on a CPU"
    )
    parser.add_argument("--remote", type=int, nargs="+", help="numbers of workers, for remote shards")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer of a remote server")
    parser.add_argument("--failing", type=float, default=0.05, help="share of requests that fail, of one of the servers")
    parser.add_argument("--stores", nargs="+", choices=("http", "failing", "moto", "rclone"), help="servers; default: all")
    parser.add_argument("--pin", action="store_true", help="one core for the remote reader, the others for the servers")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.remote:
        from benchmarks.remote_reading import STORES, compare  # which imports this file

        args.stores = args.stores or STORES
        with tempfile.TemporaryDirectory() as folder:
            compare(joined_clips(args.data, args.seconds) * args.repeat, Path(folder), args)
        return

    with tempfile.TemporaryDirectory() as folder:
        clips = joined_clips(args.data, args.seconds) * args.repeat
        hours = sum(map(len, clips)) / RATE / 3600
        sources: dict[str, dict] = {}
        for name in FORMATS:
            sources |= write_format(clips, name, Path(folder))
        ways = {(name, "ours", 0): (read_ours, source) for name, source in sources.items()}
        ways |= {(name, "ours", 1): (read_ours, source) for name, source in sources.items() if "shards" in name}
        ways |= {(name, "stock NeMo", 0): (read_stock, source) for name, source in sources.items() if "shards" in name}
        rates: dict[tuple, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, (read, source) in ways.items():
                rates[way].append(read(source, way[2]))
        rows = [
            {"data": name, "reader": reader, "workers": workers, "times_real_time": median(found), "all": found}
            for (name, reader, workers), found in rates.items()
        ]
        shards = sources["flac shards"]
        waits = [waits_of_training("birq_conformer_tiny", shards, args.steps, 30, workers) for workers in (0, 1)]
        if args.large_steps:
            waits.append(waits_of_training("birq_conformer_large", shards, args.large_steps, 30, 1))

    table = Table(
        "data", "reader", "workers", "x real time", title=f"Reading {hours:.2f} h in utterances of {args.seconds:.0f} s"
    )
    for row in rows:
        table.add_row(row["data"], row["reader"], str(row["workers"]), f"{row['times_real_time']:.0f}")
    Console().print(table)
    table = Table(
        "model", "workers", "step (s)", "waits (s)", "longest wait", "share of waiting", title="Training from flac shards"
    )
    for row in waits:
        table.add_row(row["model"], str(row["workers"]), f"{row['step_s']:.3f}", f"{row['wait_s']:.4f}",
                      f"{row['longest_wait_s']:.4f}", f"{row['waiting_share']:.2%}")  # fmt: skip
    Console().print(table)
    command = f"python benchmarks/read_shards.py --seconds {args.seconds} --repeat {args.repeat} --rounds {args.rounds}"
    result = {"command": command, "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread a process",
              "hours": hours, "reading": rows, "training": waits}  # fmt: skip
    (args.out or RESULTS / "read_speed.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
