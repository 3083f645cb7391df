"""Streams tar shards from a path, a URL or a command, and matches their members with the lines of the manifest."""

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
"""Errors of reading a stream that is damaged or ends early."""
SHOWN_CHARACTERS = 500  # of the stderr of a command that fails


class UnreadableShardsError(Exception):
    """Shards from which the utterances of the manifest cannot be read."""


class StreamLine(NamedTuple):
    """A line of a manifest."""

    name: str
    key: str
    """Unique name in the dataset, without dots and folders."""
    entry: dict[str, Any]
    wanted: bool
    """True if the utterance is used; False if it is too short or long, or marked to be left out."""


class Member(NamedTuple):
    """An audio file of a shard, with the lines that name it or segments of it."""

    audio: bytes
    lines: list[StreamLine]


class MemberLines:
    """Finds the manifest lines of the members of a shard, in any order of the members.

    The rule is that of ``member_names.find_members``, except that the first of two members with one stem is used.

    Args:
        tar: the shard, for messages.
        lines: lines of its manifest.
    """

    def __init__(self, tar: str, lines: Iterable[StreamLine]):
        self.tar = tar
        self.lost: dict[str, StreamLine] = {}
        """Wanted lines whose member has not been read yet, by key."""
        self._given: dict[str, str] = {}  # member by key of a line
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
        """Returns the wanted lines whose audio is a member.

        Raises:
            UnreadableShardsError: another member was used for one of them.
        """
        stem, suffix = os.path.splitext(member)
        named = member in self._names
        found = self._names[member] if named else self._stems.get(stem, []) if suffix.lower() in AUDIO else []
        taken = [line for line in found if line.key not in self._given]
        for line in found:
            other = self._given.setdefault(line.key, member)
            if named and other != member:
                raise UnreadableShardsError(
                    f"shard {self.tar} holds {other} and {member}, and a line with {line.name} may mean either: set "
                    "use_lhotse=true, which reads all names first, or remove one of them from the shard"
                )
        return [line for line in taken if line.wanted]


def check_shards(tars: Iterable[str]) -> None:
    """Checks that each shard is an existing file, a command, or a URL that can be streamed.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: URLs of this scheme cannot be streamed.
    """
    for tar in tars:
        scheme = urlparse(tar).scheme
        if not is_remote(tar):
            if not os.path.isfile(tar):
                raise FileNotFoundError(f"shard {tar} does not exist (named by tarred_audio_filepaths)")
        elif scheme not in ("file", *gopen_schemes):
            raise ValueError(
                f"shard {tar} cannot be opened: this loader does not stream {scheme}:// URLs. Read it through an index with "
                "use_lhotse=true, or name the command that writes it to its standard output, such as "
                f"'pipe:aws s3 cp {tar} -' for s3://"
            )


def read_members(tar: str, lines: MemberLines) -> Iterator[Member | Exception]:
    """Yields the members of a shard that have lines. If the shard is damaged, the last item is the error.

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
        with suppress(OSError):  # a command may be ended before it has written everything
            stream.close()


class _CommandOutput:
    """The output of a command as a file. If the command fails, reading the end raises an OSError with its stderr."""

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
