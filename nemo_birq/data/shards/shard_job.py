"""Builds one shard of a plan."""

import json
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from nemo_birq.data.audio.errors import AudioError
from nemo_birq.data.bandwidth import find_bandwidth
from nemo_birq.data.manifests import RESERVED_KEYS
from nemo_birq.data.shards.audio import clipped_samples, decode, encode, to_mono
from nemo_birq.data.shards.cut import Piece
from nemo_birq.data.shards.pieces import pieces_name, read_pieces
from nemo_birq.data.shards.plan import SCRATCH, ShardPlan
from nemo_birq.data.shards.recordings import local_recordings
from nemo_birq.data.shards.segments import BuildError
from nemo_birq.data.shards.stored import StoredFolder
from nemo_birq.data.shards.workers import advance
from nemo_birq.data.shards.writer import FileWriter, ShardWriter, Utterance
from nemo_birq.utils.files import file_sha256, write_json

# Keys that the builder sets, or that have no meaning once a piece is a separate file.
OWN_KEYS = {"audio_filepath", "duration", "offset", "shard_id"}


class ShardJob(NamedTuple):
    """One shard, for a worker."""

    out: str
    """Path or URL."""
    shard: ShardPlan
    codec: str
    sample_rate: int
    files: bool
    """Write single files instead of a tar file."""


def record_path(out: Path, shard: ShardPlan) -> Path:
    """Returns the path of the record of a shard, which exists if the shard is finished."""
    return (out / SCRATCH / "records" / shard.file_name).with_suffix(".json")


def build_shard(job: ShardJob) -> dict:
    """Builds a shard, or the single files instead of it, and writes its record; does nothing if it is finished.

    Returns:
        The record of the shard.

    Raises:
        BuildError: another process, perhaps on another machine, builds it.
        OSError: it cannot be written; no part of the shard is left then.
        RemoteError: remote audio or a remote ``job.out`` cannot be read or written.
    """
    folder = StoredFolder(job.out)
    path = record_path(folder.local, job.shard)
    if folder.url:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            if (record := _finished(folder, path)) is not None:
                advance(job.shard.seconds)
                return record
            return _build(job, folder)
    except Timeout as error:
        name = f"shard {job.shard.shard_id} of {folder}/{job.shard.folder}"
        raise BuildError(
            f"another process is building {name}: wait until it has ended, and run the same command again"
        ) from error


def _build(job: ShardJob, folder: StoredFolder) -> dict:
    out = folder.local
    folder.fetch([pieces_name(job.shard)])
    pieces = list(read_pieces(out, job.shard))
    skipped: list[tuple[str, str, str]] = []
    remedies: list[tuple[str, str, str, float]] = []
    durations: list[float] = []
    rates: Counter = Counter()
    channels: Counter = Counter()
    bandwidths: Counter = Counter()
    samples = clipped = utterances_clipped = 0
    with FileWriter(out) if job.files else ShardWriter(out / job.shard.folder, job.shard.shard_id) as writer:
        recordings = local_recordings(piece.path for _, piece in pieces)
        for (member, piece), recording in zip(pieces, recordings, strict=True):
            try:
                decoded = decode(piece, recording)
            except AudioError as error:
                skipped.append((piece.identity, error.kind, str(error)))
                advance(piece.seconds)
                continue
            signal, mended = to_mono(decoded, job.sample_rate)
            audio = encode(signal, job.sample_rate, job.codec, serial=zlib.crc32(member.encode()))
            duration = round(len(signal) / job.sample_rate, 6)
            writer.add(Utterance(member, audio, {"duration": duration} | _carried(piece)))
            durations.append(duration)
            remedies += [(piece.identity, *remedy, duration) for remedy in mended]
            if bandwidth := find_bandwidth(signal, job.sample_rate):
                bandwidths[f"{bandwidth:.0f}"] += len(signal) / job.sample_rate
            rates[str(decoded.sample_rate)] += 1
            channels[str(decoded.signal.shape[1])] += 1
            full = clipped_samples(decoded)
            samples, clipped = samples + decoded.signal.size, clipped + full
            utterances_clipped += full > 0
            advance(piece.seconds)
    audio = writer.paths if job.files else writer.paths[:1]
    names = [path.relative_to(out).as_posix() for path in writer.paths]
    record = {
        "files": {name: file_sha256(out / name) for name in names},
        "sizes": {name: (out / name).stat().st_size for name in names},
        "bytes": sum(path.stat().st_size for path in audio),
        "lines": writer.lines,
        "durations": durations,
        "sample_rates": rates,
        "channels": channels,
        "bandwidth_seconds": bandwidths,
        "samples": samples,
        "clipped_samples": clipped,
        "utterances_with_clipping": utterances_clipped,
        "skipped": skipped,
        "remedies": remedies,
    }
    path = record_path(out, job.shard)
    folder.send(names)
    write_json(path, record)
    folder.send([path.relative_to(out).as_posix()])  # last, because the record marks the other files as complete
    folder.drop(names)
    return record


def _carried(piece: Piece) -> dict:
    return {
        f"source_{key}" if key in RESERVED_KEYS else key: value for key, value in piece.line.items() if key not in OWN_KEYS
    }


def _finished(folder: StoredFolder, path: Path) -> dict | None:
    """Returns the record of a finished shard with unchanged files, or None. Remote files are compared by size."""
    folder.fetch([path.relative_to(folder.local).as_posix()])
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if folder.url:
        return record if folder.is_whole(record["sizes"]) else None
    files = ((folder.local / name, digest) for name, digest in record["files"].items())
    return record if all(file.is_file() and file_sha256(file) == digest for file, digest in files) else None
