"""All audio files under a folder."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nemo_birq.data.audio.suffixes import MEDIA_REMEDY
from nemo_birq.data.shards.recipes.inputs import SUFFIXES, fingerprint_of_sizes, require_folder, walk, without_suffix
from nemo_birq.data.shards.segments import IN_A_BATCH, BuildError, Listed, Listing, Segment, Skipped
from nemo_birq.data.shards.workers import Workers
from nemo_birq.utils.progress import Progress

_REMEDY = "give the folder that it leads to as the input, or a manifest with absolute paths"
_LEAVES = f"a link that leads out of the folder; {_REMEDY}"


@dataclass(frozen=True)
class FolderRecipe:
    """Every file that libsndfile reads becomes utterances, at any depth, without text.

    The recipe leaves out links that lead out of the folder, so that a folder of another author cannot add private audio of
    this machine to the shards.
    """

    root: Path

    def describe(self) -> dict:
        require_folder(self.root, "give the folder with the audio")
        sizes = ((self._name(path), os.path.getsize(path)) for path in walk(self.root, []) if _is_audio(path))
        return {"kind": "folder", "input": [str(self.root.resolve())]} | fingerprint_of_sizes(sizes)

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        not_taken: Counter[str] = Counter()
        # The output may lie in the folder, and gets files while this one is read.
        return Listing(self._batches(not_taken, scratch.parent), not_taken)

    def _batches(self, not_taken: Counter[str], without: Path) -> Iterator[Listed]:
        """Yields the segments, and at last the links that lead out; counts the other files by suffix."""
        leaving: list[str] = []
        segments: list[Segment] = []
        found = False
        for path in walk(self.root, leaving, without):
            if not _is_audio(path):
                not_taken[_suffix(path) or "no suffix"] += 1
                continue
            name = self._name(path)
            segments.append(Segment(os.path.join(self.root.absolute(), name), without_suffix(name), name))
            if len(segments) == IN_A_BATCH:
                found = True
                yield Listed(segments, [])
                segments = []
        links = sorted(Path(path) for path in leaving if os.path.isdir(path) or _is_audio(path))
        if not found and not segments:
            raise BuildError(self._nothing(len(links), not_taken))
        yield Listed(segments, [Skipped(self._name(str(path)), "outside", _LEAVES) for path in links])

    def _nothing(self, links: int, not_taken: Counter[str]) -> str:
        if links:
            return f"{self.root} holds no audio, but {links} links that lead out of it: {_REMEDY}"
        others = dict(not_taken.most_common(5)) or "nothing"
        return f"{self.root} holds no audio that libsndfile reads, only {others}; {MEDIA_REMEDY}"

    def _name(self, path: str) -> str:
        return Path(path).relative_to(self.root).as_posix()


def _suffix(path: str) -> str:
    return Path(path).suffix.lower()


def _is_audio(path: str) -> bool:
    return _suffix(path) in SUFFIXES
