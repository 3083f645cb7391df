"""The utterances that are looked at: those of a manifest that have an alignment."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.manifests import check_manifest_of_files, read_manifest
from nemo_birq.evaluation.label_quality.alignments import Alignments, check_alignments, read_alignments

BATCH_SECONDS = 120.0


class Utterances(NamedTuple):
    """Lines of a manifest, and their alignments."""

    lines: dict[str, dict]
    """Manifest lines by utterance; only those with an alignment, ``audio_filepath`` absolute."""
    alignments: Alignments
    unaligned: list[str]
    """Utterances of the manifest without alignment."""
    coverage: float
    """Share of their audio that lies in intervals."""

    @property
    def seconds(self) -> float:
        return sum(line["duration"] for line in self.lines.values())


def read_lines(manifest: str | Path) -> dict[str, dict]:
    """Lines of a manifest of single files by utterance, the file's name without suffix; ``audio_filepath`` made absolute.

    Raises:
        FileNotFoundError: the manifest, or a file that it names.
        ValueError: a manifest of tar shards, of segments of files, or with two files of one name.
    """
    manifest = Path(manifest)
    if not manifest.is_file():
        raise FileNotFoundError(f"manifest {manifest} does not exist")
    lines = read_manifest(str(manifest))
    first = lines[0]
    if all("shard_id" in line for line in lines) and not (manifest.parent / first["audio_filepath"]).is_file():
        raise ValueError(
            f"manifest {manifest} names members of tar shards ({first['audio_filepath']}): give a manifest "
            "of single audio files, such as that of the validation set"
        )
    lines = check_manifest_of_files(str(manifest))
    cut = [line["audio_filepath"] for line in lines if line.get("offset")]
    if cut:
        raise ValueError(
            f"manifest {manifest}: {cut[0]} begins at an offset; alignments are by file, so write each segment to a file"
        )
    counts = Counter(Path(line["audio_filepath"]).stem for line in lines)
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise ValueError(f"manifest {manifest} has {count} files named {name}; alignments cannot tell them apart")
    return {
        Path(line["audio_filepath"]).stem: line
        | {"audio_filepath": str((manifest.parent / line["audio_filepath"]).resolve())}
        for line in lines
    }


def read_utterances(manifest: str | Path, alignments: str | Path, hours: float | None = None) -> Utterances:
    """Joins manifest and alignments.

    Args:
        manifest: of single files.
        alignments: see ``alignments.read_alignments``.
        hours: take only so much audio, utterances drawn at random, always the same.

    Raises:
        FileNotFoundError, ValueError: see ``read_lines``, ``read_alignments`` and ``check_alignments``.
    """
    lines = read_lines(manifest)
    found = read_alignments(alignments, set(lines))
    unaligned = sorted(lines.keys() - found.phones.keys())
    chosen = _draw(sorted(found.phones), {name: line["duration"] for name, line in lines.items()}, hours)
    found = found._replace(phones={name: found.phones[name] for name in chosen})
    coverage = check_alignments(found.phones, {name: lines[name]["duration"] for name in chosen})
    return Utterances({name: lines[name] for name in chosen}, found, unaligned, coverage)


def _draw(names: list[str], durations: dict[str, float], hours: float | None) -> list[str]:
    if hours is None:
        return names
    random.Random(0).shuffle(names)
    chosen, seconds = [], 0.0
    while names and seconds < hours * 3600:
        chosen.append(names.pop())
        seconds += durations[chosen[-1]]
    return chosen


def make_loader(lines: dict[str, dict], folder: Path, sample_rate: int) -> DataLoader:
    """Loader of whole utterances, once each, the short ones first; ``SpeechBatch.ids`` are absolute paths.

    Args:
        lines: manifest lines with absolute paths.
        folder: a manifest and its index are written there for the loader; keep it while the loader is used.
        sample_rate: in Hz; other audio is resampled.
    """
    manifest = folder / "manifest.json"
    in_order = sorted(lines.values(), key=lambda line: line["duration"])  # little padding
    manifest.write_text("".join(json.dumps(line) + "\n" for line in in_order), encoding="utf-8")
    config = {
        "use_lhotse": True, "manifest_filepath": str(manifest), "shuffle": False, "num_workers": 0,
        "batch_duration": max(BATCH_SECONDS, in_order[-1]["duration"]), "use_bucketing": False,
    }  # fmt: skip
    return build_dataloader(OmegaConf.create(config), sample_rate, rank=0, world_size=1, training=False, index_folder=folder)
