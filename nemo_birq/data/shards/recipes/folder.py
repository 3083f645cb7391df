"""All audio files under a folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nemo_birq.data.shards.recipes.inputs import SUFFIXES, files_under, fingerprint, require_folder, without_suffix
from nemo_birq.data.shards.segments import BuildError, Listing, Segment
from nemo_birq.utils.progress import Progress


@dataclass(frozen=True)
class FolderRecipe:
    """Every file that libsndfile reads becomes utterances, at any depth, without text."""

    root: Path

    def describe(self) -> dict:
        require_folder(self.root, "give the folder with the audio")
        return {"kind": "folder", "input": [str(self.root.resolve())]} | fingerprint(self.root, self._files())

    def read(self, scratch: Path, workers: int, progress: Progress) -> Listing:
        files = self._files()
        if not files:
            others = Counter(path.suffix.lower() or "no suffix" for path in files_under(self.root))
            raise BuildError(
                f"{self.root} holds no audio that libsndfile reads, only {dict(others.most_common(5)) or 'nothing'}; "
                "convert it first, for example: ffmpeg -i a.m4a a.flac"
            )
        names = [path.relative_to(self.root).as_posix() for path in files]
        segments = [
            Segment(str(path.absolute()), without_suffix(name), name) for path, name in zip(files, names, strict=True)
        ]
        return Listing(segments, [])

    def _files(self) -> list[Path]:
        return [path for path in files_under(self.root) if path.suffix.lower() in SUFFIXES]
