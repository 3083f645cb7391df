"""All audio files under a folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nemo_birq.data.audio.suffixes import MEDIA_REMEDY
from nemo_birq.data.shards.recipes.inputs import SUFFIXES, files_under, fingerprint, require_folder, without_suffix
from nemo_birq.data.shards.segments import BuildError, Listing, Segment, Skipped
from nemo_birq.data.shards.workers import Workers
from nemo_birq.utils.progress import Progress

_REMEDY = "give the folder that it leads to as the input, or a manifest with absolute paths"
_LEAVES = f"a link that leads out of the folder; {_REMEDY}"


class _Files(NamedTuple):
    """Files of a folder, grouped by their use."""

    audio: list[Path]
    leaving: list[Path]
    """Links to audio files or folders outside of the folder."""
    others: Counter
    """Number of unused files by suffix."""


@dataclass(frozen=True)
class FolderRecipe:
    """Every file that libsndfile reads becomes utterances, at any depth, without text.

    The recipe leaves out links that lead out of the folder, so that a folder of another author cannot add private audio of
    this machine to the shards.
    """

    root: Path

    def describe(self) -> dict:
        require_folder(self.root, "name the folder with the audio")
        return {"kind": "folder", "input": [str(self.root.resolve())]} | fingerprint(self.root, self._files().audio)

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        found = self._files()
        if not found.audio:
            if found.leaving:
                raise BuildError(
                    f"{self.root} holds no audio, but {len(found.leaving)} links that lead out of it: {_REMEDY}"
                )
            raise BuildError(
                f"{self.root} holds no audio that libsndfile reads, only {dict(found.others.most_common(5)) or 'nothing'}; "
                f"{MEDIA_REMEDY}"
            )
        names = [path.relative_to(self.root).as_posix() for path in found.audio]
        segments = [
            Segment(str(path.absolute()), without_suffix(name), name) for path, name in zip(found.audio, names, strict=True)
        ]
        skipped = [Skipped(path.relative_to(self.root).as_posix(), "outside", _LEAVES) for path in found.leaving]
        return Listing.of(segments, skipped, dict(sorted(found.others.items())))

    def _files(self) -> _Files:
        leaving: list[Path] = []
        files = files_under(self.root, leaving)
        return _Files(
            audio=[path for path in files if path.suffix.lower() in SUFFIXES],
            leaving=sorted(path for path in leaving if path.is_dir() or path.suffix.lower() in SUFFIXES),
            others=Counter(path.suffix.lower() or "no suffix" for path in files if path.suffix.lower() not in SUFFIXES),
        )
