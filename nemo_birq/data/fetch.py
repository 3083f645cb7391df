"""Parallel reading of the encoded audio of a batch from a store, compared with the checksums of the index."""

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Thread

from nemo_birq.data.audio_cache import AudioCache
from nemo_birq.data.index import Place
from nemo_birq.data.remote import Range, read_ranges
from nemo_birq.data.retries import RemoteError
from nemo_birq.data.tables import cache_folder
from nemo_birq.utils.urls import is_url


class AheadReader:
    """Reads the remote audio of the next batch in a thread while the process decodes the present one.

    Args:
        cache: see ``fetch_remote``.
    """

    def __init__(self, cache: AudioCache | None):
        self.cache = cache
        self._begun: tuple[int, Sequence[Place], Future[list[bytes | None]]] | None = None

    def __reduce__(self):
        return AheadReader, (self.cache,)

    def fetch(self, places: Sequence[Place]) -> list[bytes | None]:
        """Returns what ``begin`` has read for the same utterances; otherwise reads as ``fetch_remote``."""
        begun, self._begun = self._begun, None
        if begun is not None and begun[:2] == (os.getpid(), places):  # the thread does not exist in a forked process
            return begun[2].result()
        return fetch_remote(places, self.cache)

    def begin(self, places: Sequence[Place]) -> None:
        """Starts to read the utterances of the next batch."""
        found: Future[list[bytes | None]] = Future()
        self._begun = os.getpid(), places, found
        # A daemon thread, so that a process that ends does not wait for a store that has stopped.
        Thread(target=_fetch_into, args=(found, places, self.cache), daemon=True).start()


def _fetch_into(found: Future[list[bytes | None]], places: Sequence[Place], cache: AudioCache | None) -> None:
    try:
        found.set_result(fetch_remote(places, cache))
    except Exception as error:
        found.set_exception(error)


def fetch_remote(places: Sequence[Place], cache: AudioCache | None = None) -> list[bytes | None]:
    """Reads the encoded audio of the utterances that have a URL.

    Args:
        places: places of the utterances.
        cache: cache of audio on this machine.

    Returns:
        The encoded audio of each utterance; None for local files.

    Raises:
        RemoteError: audio cannot be read, or was replaced after the index was built.
    """
    remote = {number: place for number, place in enumerate(places) if is_url(place.file)}
    found: list[bytes | None] = [None] * len(places)
    if cache is not None:
        found = [cache.read(place) if number in remote else None for number, place in enumerate(places)]
    asked = wrong = {number: place for number, place in remote.items() if found[number] is None}
    for _ in range(2):  # a second time in case of an error of the transfer
        ranges = [Range(place.file, place.position, place.position + place.size) for place in wrong.values()]
        for number, encoded in zip(wrong, read_ranges(ranges), strict=True):
            found[number] = encoded
        wrong = {number: place for number, place in wrong.items() if zlib.crc32(found[number]) != place.checksum}
        if not wrong:
            for number, place in asked.items() if cache is not None else ():
                cache.write(place, found[number])
            return found
    place = next(iter(wrong.values()))
    if place.file == place.name:
        remedy = f"delete its index in {cache_folder()}, and run the command again"
    else:
        remedy = "run the command again, which builds a new index"
    raise RemoteError(
        f"{place.name} of {place.file} has changed since its index was built, so the file was replaced: {remedy}"
    )
