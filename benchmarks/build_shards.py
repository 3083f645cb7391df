"""Measures the speed of building shards, and their size: flac, opus and wav, with one process and with all cores.

python benchmarks/build_shards.py                              the embedded corpus, decoded to files of 16 bits
python benchmarks/build_shards.py --data /data/train.json      another manifest

The result is docs/results/build_speed.json. Each time covers everything from the first header to the dataset card,
including the start of the processes.
"""

import argparse
import io
import json
import os
import platform
import resource
import tarfile
import tempfile
import time
from pathlib import Path

import soundfile
from rich.console import Console
from rich.table import Table

from nemo_birq.data.shards.audio import CODECS
from nemo_birq.data.shards.build import build
from nemo_birq.data.shards.plan import BuildOptions
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from nemo_birq.utils.progress import ProgressBars

ROOT = Path(__file__).resolve().parents[1]


def decode_embedded_corpus(folder: Path) -> Path:
    """Writes the training set of this repository as wav files, and returns their manifest."""
    lines = []
    for path in sorted((ROOT / "tarred_manifests" / "train").glob("audio_*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                samples, rate = soundfile.read(io.BytesIO(tar.extractfile(member).read()), dtype="int16")
                name = Path(member.name).with_suffix(".wav").name
                soundfile.write(folder / name, samples, rate)
                lines.append({"audio_filepath": name, "duration": len(samples) / rate})
    manifest = folder / "train.json"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest


def shorten(manifest: Path, minutes: float, folder: Path) -> tuple[ManifestRecipe, float]:
    """Returns the beginning of a manifest, and its seconds."""
    seconds, lines = 0.0, []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        if seconds >= 60 * minutes:
            break
        lines.append(line)
        seconds += json.loads(line)["duration"]
    short = folder / "short.json"
    short.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ManifestRecipe([short], root=manifest.parent), seconds


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process and of the workers that have ended, which exclude other programs."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a NeMo manifest (default: the embedded corpus, decoded)")
    parser.add_argument("--minutes", type=float, default=30.0, help="most minutes of audio (default 30)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes in the second run (one for each core)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "build_speed.json")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe, seconds = shorten(args.data or decode_embedded_corpus(folder), args.minutes, folder)
        first = json.loads(recipe.manifests[0].read_text(encoding="utf-8").splitlines()[0])["audio_filepath"]
        source = soundfile.info(recipe.root / first)
        for codec in CODECS:
            for workers in (1, args.workers):
                out = folder / f"{codec}{workers}"
                options = BuildOptions(codec=codec, num_shards=2 * args.workers)
                start, spent = time.perf_counter(), cpu_seconds()
                card = build(recipe, out, options, workers, 0.0, ProgressBars(disable=True))
                wall, cpu = time.perf_counter() - start, cpu_seconds() - spent
                results.append(
                    {
                        "codec": codec,
                        "processes": workers,
                        "wall_seconds": round(wall, 2),
                        "cpu_seconds": round(cpu, 2),
                        "audio_seconds_per_wall_second": round(seconds / wall, 1),
                        "audio_seconds_per_cpu_second": round(seconds / cpu, 1),
                        "megabytes_per_hour": round(card["bytes"] / 1e6 / card["hours"], 1),
                    }
                )
    table = Table("codec", "processes", "wall, s", "audio s per s", "audio s per s of a core", "MB per hour")
    for row in results:
        speeds = row["audio_seconds_per_wall_second"], row["audio_seconds_per_cpu_second"]
        table.add_row(row["codec"], str(row["processes"]), *(f"{v:.1f}" for v in (row["wall_seconds"], *speeds)),
                      f"{row['megabytes_per_hour']:.1f}")  # fmt: skip
    Console().print(table)
    command = f"python benchmarks/build_shards.py{' --data <manifest>' if args.data else ''} --minutes {args.minutes:g}"
    result = {
        "what": "building of tar shards: seconds of audio per second of wall time, everything included",
        "command": command,
        "data": args.data.parent.name if args.data else "the embedded corpus, decoded to wav",
        "audio_seconds": round(seconds, 1),
        "source_format": f"{source.format} {source.subtype}, {source.samplerate} Hz, {source.channels} channel",
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "libsndfile": soundfile.__libsndfile_version__,
        "results": results,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
