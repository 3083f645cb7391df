"""Encoded audio of remote shards, kept on this machine up to a size.

Each shard has a file of its own size in the cache folder, with the bytes that have been read at their places and holes
elsewhere. The checksum of the index tells one from the other, so there is nothing to keep besides, and nothing to agree on:
any number of processes read and write the same bytes at the same places, a process may be killed at any time, and of a
shard that was replaced nothing is taken. The shards that were used least recently are removed as a whole.
"""

import hashlib
import os
import zlib
from pathlib import Path

from nemo.utils import logging

from nemo_birq.data.index import Place
from nemo_birq.data.limited_folder import LimitedFolder
from nemo_birq.data.tables import cache_folder

KEY = "remote_cache_gb"


class AudioCache:
    """Keeps encoded audio that came from a store.

    Args:
        gigabytes: on the disk of this machine, of all processes together; above 0.
    """

    def __init__(self, gigabytes: float):
        self._folder = LimitedFolder(cache_folder() / "audio", int(gigabytes * 1e9))
        self._is_full = False

    def read(self, place: Place) -> bytes | None:
        """Returns the bytes of an utterance, None where they are not kept."""
        path = self._path(place)
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            found = os.pread(handle, place.size, place.position)
        except OSError:
            return None
        finally:
            os.close(handle)
        if len(found) != place.size or zlib.crc32(found) != place.checksum:
            return None
        self._folder.use(path)
        return found

    def write(self, place: Place, encoded: bytes) -> None:
        """Keeps the bytes of an utterance; where they cannot be written, as on a full disk, it says so once and goes on."""
        if self._is_full:
            return
        try:
            path = self._path(place)
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(handle, encoded, place.position)
            finally:
                os.close(handle)
            self._folder.add(len(encoded))
        except OSError as error:
            self._is_full = True
            logging.warning(
                f"{KEY}: this process keeps no more remote audio in {self._folder.folder} ({error.strerror}), and reads it "
                f"from the store; free some space, or lower {KEY} before the next start"
            )

    def _path(self, place: Place) -> Path:
        return self._folder.folder / hashlib.sha256(place.file.encode()).hexdigest()[:32]
