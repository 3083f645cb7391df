"""Writes tar shards in NeMo's format, or single files.

audio_0.tar ... audio_{n-1}.tar                        members: the audio files
tarred_audio_manifest.json                             one line for each utterance, with shard_id
sharded_manifests/manifest_0.json ... _{n-1}.json      the lines of each shard, in the order of its members

audio/                                                 single files
manifest.json                                          one line for each of them, in the order of their names
"""

import tarfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from nemo_birq.data.json_lines import to_line
from nemo_birq.utils.files import complete_file

AUDIO, MANIFEST = "audio", "manifest.json"
"""Names of the folder of single files and of their manifest."""


class Utterance(NamedTuple):
    """One clip of a shard."""

    member: str
    """Name inside the tar, with the extension of its format."""
    audio: bytes
    """An encoded audio file."""
    line: dict
    """Its manifest line: duration (seconds), and text, speaker, ... if known."""


class ShardPaths(NamedTuple):
    """Paths of a shard and its manifest."""

    tar: Path
    manifest: Path


def shard_paths(folder: Path, shard_id: int) -> ShardPaths:
    return ShardPaths(folder / f"audio_{shard_id}.tar", folder / "sharded_manifests" / f"manifest_{shard_id}.json")


class ShardWriter:
    """Writes one shard and its manifest; they get their final names when the ``with`` block ends without an error."""

    lines: None = None
    """None, because the lines are in the manifest."""

    def __init__(self, folder: Path, shard_id: int):
        self.paths = shard_paths(folder, shard_id)
        self.shard_id = shard_id

    def __enter__(self) -> "ShardWriter":
        with ExitStack() as stack:
            tar, manifest = (stack.enter_context(complete_file(path)) for path in self.paths)
            self._manifest = stack.enter_context(open(manifest, "w", encoding="utf-8"))
            self._tar = stack.enter_context(tarfile.open(tar, mode="w"))
            self._files = stack.pop_all()
        return self

    def add(self, utterance: Utterance) -> None:
        member = tarfile.TarInfo(utterance.member)  # with time and owner 0: the same input gives the same bytes
        member.size = len(utterance.audio)
        self._tar.addfile(member, BytesIO(utterance.audio))
        line = utterance.line | {"audio_filepath": utterance.member, "shard_id": self.shard_id}
        self._manifest.write(to_line(line))

    def __exit__(self, *error: object) -> None:
        self._files.__exit__(*error)


class FileWriter:
    """Writes single files, and keeps the lines of the manifest in ``lines``.

    Each file is complete or absent. After an error, the files that were written before stay.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths: list[Path] = []
        self.lines: list[dict] = []

    def __enter__(self) -> "FileWriter":
        return self

    def add(self, utterance: Utterance) -> None:
        path = self.folder / AUDIO / utterance.member
        with complete_file(path) as part:
            part.write_bytes(utterance.audio)
        self.paths.append(path)
        self.lines.append(utterance.line | {"audio_filepath": f"{AUDIO}/{utterance.member}"})

    def __exit__(self, *error: object) -> None:
        pass


def write_manifest(folder: Path, lines: Iterable[dict]) -> Path:
    """Writes the manifest of single files in the order of their names."""
    target = folder / MANIFEST
    ordered = sorted(lines, key=itemgetter("audio_filepath"))
    with complete_file(target) as part, open(part, "w", encoding="utf-8") as manifest:
        manifest.writelines(to_line(line) for line in ordered)
    return target


def merge_manifests(folder: Path, num_shards: int) -> Path:
    """Writes ``tarred_audio_manifest.json``, which joins the manifests of all shards."""
    target = folder / "tarred_audio_manifest.json"
    with complete_file(target) as part, open(part, "wb") as merged:
        for shard_id in range(num_shards):
            merged.write(shard_paths(folder, shard_id).manifest.read_bytes())
    return target


def write_shards(utterances: Sequence[Utterance] | Iterable[Utterance], out: Path, num_shards: int) -> None:
    """Distributes utterances over shards in turn, and writes shards and manifests.

    The files are written under temporary names and renamed at the end, so an interrupted run leaves no partial shard.

    Raises:
        FileExistsError: ``out`` already holds shards.
        ValueError: two utterances have the same name.
    """
    if list(out.glob("audio_*.tar")):
        raise FileExistsError(f"{out} already holds shards: name another folder, or remove them first")
    seen: set[str] = set()
    with ExitStack() as stack:
        writers = [stack.enter_context(ShardWriter(out, shard_id)) for shard_id in range(num_shards)]
        for number, utterance in enumerate(utterances):
            if utterance.member in seen:
                raise ValueError(f"two utterances have the name {utterance.member}; names of files must differ")
            seen.add(utterance.member)
            writers[number % num_shards].add(utterance)
    merge_manifests(out, num_shards)
