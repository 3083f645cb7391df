"""Writes tar shards in NeMo's format, from a manifest of single files.

audio_0.tar ... audio_{n-1}.tar                        members: the audio files
tarred_audio_manifest.json                             one line for each utterance, with shard_id
sharded_manifests/manifest_0.json ... _{n-1}.json      the lines of each shard, in the order of its members
"""

import json
import random
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import NamedTuple


class Utterance(NamedTuple):
    """One clip, as it goes into a shard."""

    member: str
    """Name inside the tar, with the extension of its format."""
    audio: bytes | Path
    """An encoded audio file."""
    line: dict
    """Its manifest line: duration (seconds), and text, speaker, ... if known."""


def write_shards(utterances: Sequence[Utterance] | Iterable[Utterance], out: Path, num_shards: int) -> None:
    """Deals utterances out to shards, one after the other, and writes shards and manifests.

    The files are written under temporary names and renamed at the end, so that an interrupted run leaves no half shard.

    Raises:
        FileExistsError: ``out`` already holds shards.
        ValueError: two utterances have the same name.
    """
    if list(out.glob("audio_*.tar")):
        raise FileExistsError(f"{out} already holds shards; give another folder, or remove them first")
    manifests = out / "sharded_manifests"
    manifests.mkdir(parents=True, exist_ok=True)
    targets = [out / f"audio_{i}.tar" for i in range(num_shards)]
    lists = [manifests / f"manifest_{i}.json" for i in range(num_shards)]
    everything = out / "tarred_audio_manifest.json"
    parts = {path: path.with_name(path.name + ".part") for path in [*targets, *lists, everything]}
    seen: set[str] = set()
    with ExitStack() as stack:
        tars = [stack.enter_context(tarfile.open(parts[path], "w")) for path in targets]
        files = [stack.enter_context(open(parts[path], "w", encoding="utf-8")) for path in lists]
        for number, utterance in enumerate(utterances):
            if utterance.member in seen:
                raise ValueError(f"two utterances are called {utterance.member}; names of files must differ")
            seen.add(utterance.member)
            shard = number % num_shards
            audio = utterance.audio if isinstance(utterance.audio, bytes) else utterance.audio.read_bytes()
            member = tarfile.TarInfo(utterance.member)  # with time and owner 0: the same input gives the same bytes
            member.size = len(audio)
            tars[shard].addfile(member, BytesIO(audio))
            line = utterance.line | {"audio_filepath": utterance.member, "shard_id": shard}
            files[shard].write(json.dumps(line) + "\n")
    parts[everything].write_text("".join(parts[path].read_text(encoding="utf-8") for path in lists), encoding="utf-8")
    for path, part in parts.items():
        part.rename(path)


def utterances_of_manifest(manifest: Path, lines: Iterable[dict], seed: int) -> list[Utterance]:
    """The utterances of a manifest with single files, shuffled, so that each shard is a sample of the whole."""
    utterances = [
        Utterance(Path(line["audio_filepath"]).name, manifest.parent / line["audio_filepath"], line) for line in lines
    ]
    random.Random(seed).shuffle(utterances)
    return utterances
