"""Tar shards as streams: opened from a path, a URL or a command, and their members given to the lines of the manifest."""

import lzma
import os
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from subprocess import PIPE, Popen
from tempfile import TemporaryFile
from typing import Any, NamedTuple
from urllib.parse import urlparse

from webdataset.gopen import gopen, gopen_schemes

from nemo_birq.data.manifests import COMMAND, SEGMENT, is_remote
from nemo_birq.data.member_names import AUDIO

BROKEN = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError)
"""Errors of reading a stream that is damaged, or breaks off."""
SHOWN_CHARACTERS = 500  # of what a command that fails has written to stderr


class UnreadableShardsError(Exception):
    """Shards of which nothing, or not the right thing, can be read."""


class StreamLine(NamedTuple):
    """A line of a manifest."""

    name: str
    key: str
    """Name that no other line of the dataset has; without dots and folders."""
    entry: dict[str, Any]
    wanted: bool
    """The utterance is to be given; False where it is too short or long, or marked to be left out."""


class Member(NamedTuple):
    """An audio file of a shard, with the lines that are the whole of it or segments of it."""

    audio: bytes
    lines: list[StreamLine]


class MemberLines:
    """The lines of a shard's manifest, to be found by its members, in whatever order these come.

    The rule is that of ``member_names.find_members``, but that of two members with one stem the first one is taken.

    Args:
        tar: the shard, for messages.
        lines: of its manifest.
    """

    def __init__(self, tar: str, lines: Iterable[StreamLine]):
        self.tar = tar
        self.lost: dict[str, StreamLine] = {}
        """Wanted lines by key; those whose member has not been read yet."""
        self._given: dict[str, str] = {}  # key of a line: its member
        self._names: dict[str, list[StreamLine]] = defaultdict(list)
        self._stems: dict[str, list[StreamLine]] = defaultdict(list)
        suffixes: dict[str, set[str]] = defaultdict(set)
        for line in lines:
            if line.wanted:
                self.lost[line.key] = line
            for name in {line.name, SEGMENT.sub("", line.name)}:
                stem, suffix = os.path.splitext(name)
                self._names[name].append(line)
                self._stems[stem].append(line)
                suffixes[stem].add(suffix)
        for stem, found in suffixes.items():
            if len(found) > 1:
                del self._stems[stem]

    def take(self, member: str) -> list[StreamLine]:
        """Returns the wanted lines that a member is the audio of.

        Raises:
            UnreadableShardsError: another member has been taken for one of them.
        """
        stem, suffix = os.path.splitext(member)
        named = member in self._names
        found = self._names[member] if named else self._stems.get(stem, []) if suffix.lower() in AUDIO else []
        taken = [line for line in found if line.key not in self._given]
        for line in found:
            other = self._given.setdefault(line.key, member)
            if named and other != member:
                raise UnreadableShardsError(
                    f"shard {self.tar} holds {other} and {member}, and both may be what a line with {line.name} means: "
                    "use_lhotse=true, which knows all names before it reads, or leave one out of the shard"
                )
        return [line for line in taken if line.wanted]


def check_shards(tars: Iterable[str]) -> None:
    """Checks that there is a way to open each shard.

    Raises:
        FileNotFoundError: a path without a file.
        ValueError: a URL of which nothing here can read.
    """
    for tar in tars:
        scheme = urlparse(tar).scheme
        if not is_remote(tar):
            if not os.path.isfile(tar):
                raise FileNotFoundError(f"shard {tar} does not exist (named by tarred_audio_filepaths)")
        elif scheme not in ("file", *gopen_schemes):
            raise ValueError(
                f"shard {tar} cannot be opened: nothing here streams {scheme}://. Read it through an index with "
                "use_lhotse=true, or name the command that writes it to its standard output, such as "
                f"'pipe:aws s3 cp {tar} -' for s3://"
            )


def read_members(tar: str, lines: MemberLines) -> Iterator[Member | Exception]:
    """Yields the members of a shard that have lines, and at the end the error that it breaks off with, if it does.

    Raises:
        UnreadableShardsError: the shard cannot be opened.
    """
    opened = False
    try:
        with _open(tar) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            opened = True
            for member in archive:
                if member.isfile() and (found := lines.take(member.name)):
                    audio = archive.extractfile(member).read()
                    for line in found:
                        del lines.lost[line.key]
                    yield Member(audio, found)
    except BROKEN as error:
        if opened:
            yield error
        else:
            raise UnreadableShardsError(f"shard {tar} cannot be opened: {error or type(error).__name__}") from error


@contextmanager
def _open(tar: str) -> Iterator[Any]:
    stream = _CommandOutput(tar.removeprefix(COMMAND)) if tar.startswith(COMMAND) else gopen(tar)
    try:
        yield stream
    finally:
        with suppress(OSError):  # of a program that is ended before it has written all
            stream.close()


class _CommandOutput:
    """The output of a command, for reading. Where the command fails its last bytes are an error, with what it has said."""

    def __init__(self, command: str):
        self._command = command
        self._said = TemporaryFile()  # noqa: SIM115  (close() closes it)
        self._process = Popen(command, shell=True, stdout=PIPE, stderr=self._said)

    def read(self, size: int) -> bytes:
        data = self._process.stdout.read(size)
        if len(data) < size and (status := self._process.wait()):
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip()[-SHOWN_CHARACTERS:]
            raise OSError(f"the command ends with status {status}: {said}")
        return data

    def close(self) -> None:
        self._process.stdout.close()
        self._process.wait()
        self._said.close()
