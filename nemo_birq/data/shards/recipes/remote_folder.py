"""All audio files under a folder of an object store."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from nemo_birq.data.audio.suffixes import MEDIA_REMEDY
from nemo_birq.data.remote_files import list_files
from nemo_birq.data.shards.recipes.inputs import SUFFIXES, fingerprint_of_sizes, is_companion, without_suffix
from nemo_birq.data.shards.segments import BuildError, Listing, Segment
from nemo_birq.data.shards.workers import Workers
from nemo_birq.utils.progress import Progress
from nemo_birq.utils.urls import find_secret_problem


@dataclass(frozen=True)
class RemoteFolderRecipe:
    """Every object that libsndfile reads becomes utterances, like the files of ``folder.FolderRecipe``."""

    url: str

    def describe(self) -> dict:
        if problem := find_secret_problem(self.url):
            raise ValueError(problem)
        audio = [(name, size) for name, size in self._files if _is_audio(name)]
        return {"kind": "folder", "input": [self.url]} | fingerprint_of_sizes(audio)

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        audio = [name for name, _ in self._files if _is_audio(name)]
        others = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name, _ in self._files if not _is_audio(name))
        if not self._files:
            raise BuildError(f"{self.url} holds no files: check the name of the folder")
        if not audio:
            raise BuildError(
                f"{self.url} holds no audio that libsndfile reads, only {dict(others.most_common(5))}; {MEDIA_REMEDY}"
            )
        segments = (Segment(f"{self.url}/{name}", without_suffix(name), name) for name in audio)
        return Listing.of(segments, [], dict(sorted(others.items())))

    @cached_property
    def _files(self) -> list[tuple[str, int]]:
        """Names and sizes in bytes, in the order of a local folder."""
        found = ((PurePosixPath(name), size) for name, size in list_files(self.url).items())
        return [(str(path), size) for path, size in sorted(found) if not any(map(is_companion, path.parts))]


def _is_audio(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES
