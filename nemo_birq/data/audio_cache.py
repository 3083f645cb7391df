"""Cache of encoded audio from remote shards on the local disk, with a size limit.

Each shard has a sparse file of its own size in the cache folder. It has the bytes that were read at their positions, and
holes elsewhere. The checksum in the index tells cached bytes from holes, so reads and writes need no metadata and no locks:
any number of processes may read and write the same bytes at the same positions, and a process may be killed at any time.
The cached bytes of a replaced shard fail the checksum. The least recently used shards are removed, each as a whole.
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
    """Cache of encoded audio that was read from an object store.

    Args:
        gigabytes: limit on the local disk for all processes together; above 0.
    """

    def __init__(self, gigabytes: float):
        self._folder = LimitedFolder(cache_folder() / "audio", int(gigabytes * 1e9))
        self._is_full = False

    def read(self, place: Place) -> bytes | None:
        """Returns the bytes of an utterance, or None if they are not cached."""
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
        """Caches the bytes of an utterance. If writing fails, as on a full disk, logs it once and caches no more."""
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
                f"{KEY}: this process stops caching remote audio in {self._folder.folder} ({error.strerror}) and reads it "
                f"from the store. Free some space, or lower {KEY} before the next start"
            )

    def _path(self, place: Place) -> Path:
        return self._folder.folder / hashlib.sha256(place.file.encode()).hexdigest()[:32]
