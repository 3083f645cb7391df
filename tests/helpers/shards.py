"""Small audio files, shards made of them, and the contents of shards."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile
from omegaconf import DictConfig, OmegaConf

from nemo_birq.data.shards.build import build
from nemo_birq.data.shards.plan import BuildOptions
from nemo_birq.data.shards.segments import Listed
from nemo_birq.data.shards.workers import Workers
from nemo_birq.data.shards.writer import Utterance, write_shards
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.models import SAMPLE_RATE

RNG = np.random.default_rng(0)


def wav(seconds=1.0, rate=SAMPLE_RATE, channels=1, pitch=300.0) -> bytes:
    time = np.arange(int(seconds * rate)) / rate
    signal = np.repeat(0.3 * np.sin(2 * np.pi * pitch * time)[:, None], channels, axis=1)
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, rate, format="WAV")
    return buffer.getvalue()


def make_shards(folder: Path, extra: dict[str, bytes] | None = None, durations: dict[str, float] | None = None, shards=2):
    clips = {f"clip{i}.wav": wav(1 + 0.1 * i, pitch=200 + 50 * i) for i in range(8)} | (extra or {})
    durations = {f"clip{i}.wav": 1 + 0.1 * i for i in range(8)} | (durations or {})
    utterances = [Utterance(name, audio, {"duration": durations.get(name, 1.0)}) for name, audio in clips.items()]
    write_shards(utterances, folder, shards)
    return folder


def noise(seconds: float, rate: int = SAMPLE_RATE, channels: int = 1) -> np.ndarray:
    """Makes 16-bit samples, (samples, channels)."""
    return (RNG.normal(size=(int(seconds * rate), channels)) * 3000).astype(np.int16)


def write(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def write_lines(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def make(recipe, out: Path | str, workers: Workers = 1, max_skipped_share: float = 0.0, **options) -> dict:
    return build(recipe, out, BuildOptions(**options), workers, max_skipped_share, ProgressBars(disable=True))


def listed(recipe, folder: Path) -> Listed:
    """Reads everything that a recipe lists, at once; archives are unpacked under the folder."""
    found = Listed([], [])
    for batch in recipe.read(folder / "scratch", 1, ProgressBars(disable=True)).batches:
        segments, skipped = batch.read()
        found.segments.extend(segments)
        found.skipped.extend(skipped)
    return found


def members(out: Path) -> dict[str, np.ndarray]:
    """Reads the 16-bit samples of every member of every shard under a folder."""
    found = {}
    for path in sorted(out.rglob("audio_*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name], _ = soundfile.read(io.BytesIO(tar.extractfile(member).read()), dtype="int16")
    return found


def lines(out: Path) -> dict[str, dict]:
    text = (out / "tarred_audio_manifest.json").read_text(encoding="utf-8")
    return {line["audio_filepath"]: line for line in map(json.loads, text.splitlines())}


def dataset_node(folder: Path, kind: str) -> DictConfig:
    """Makes the node of a dataset of ``folder``: its ``files.json``, or its one shard, by an index or as a stream."""
    shards = {
        "manifest_filepath": f"{folder}/shards/sharded_manifests/manifest_0.json",
        "tarred_audio_filepaths": f"{folder}/shards/audio_0.tar",
    }
    where = {"manifest_filepath": f"{folder}/files.json"} if kind == "files" else shards
    ways = {"use_lhotse": kind != "stream", "is_tarred": kind == "stream"}
    return OmegaConf.create(where | ways | {"batch_size": 3, "num_workers": 0, "shuffle": False})
