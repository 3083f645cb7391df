"""All audio files under a folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nemo_birq.data.audio.suffixes import MEDIA_REMEDY
from nemo_birq.data.shards.recipes.inputs import SUFFIXES, files_under, fingerprint, require_folder, without_suffix
from nemo_birq.data.shards.segments import BuildError, Listing, Segment, Skipped
from nemo_birq.utils.progress import Progress

_REMEDY = "give the folder that it leads to as the input, or a manifest with absolute paths"
_LEAVES = f"a link that leads out of the folder; {_REMEDY}"


@dataclass(frozen=True)
class FolderRecipe:
    """Every file that libsndfile reads becomes utterances, at any depth, without text.

    The recipe leaves out links that lead out of the folder: with a folder of another author, the shards would hold audio of
    the machine that nobody meant to share.
    """

    root: Path

    def describe(self) -> dict:
        require_folder(self.root, "give the folder with the audio")
        return {"kind": "folder", "input": [str(self.root.resolve())]} | fingerprint(self.root, self._files()[0])

    def read(self, scratch: Path, workers: int, progress: Progress) -> Listing:
        files, leaving = self._files()
        if not files:
            if leaving:
                raise BuildError(f"{self.root} holds no audio, and {len(leaving)} links that lead out of it: {_REMEDY}")
            others = Counter(path.suffix.lower() or "no suffix" for path in files_under(self.root))
            raise BuildError(
                f"{self.root} holds no audio that libsndfile reads, only {dict(others.most_common(5)) or 'nothing'}; "
                f"{MEDIA_REMEDY}"
            )
        names = [path.relative_to(self.root).as_posix() for path in files]
        segments = [
            Segment(str(path.absolute()), without_suffix(name), name) for path, name in zip(files, names, strict=True)
        ]
        skipped = [Skipped(path.relative_to(self.root).as_posix(), "outside", _LEAVES) for path in leaving]
        return Listing(segments, skipped)

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Audio files, and links to audio files or folders outside."""
        leaving: list[Path] = []
        files = [path for path in files_under(self.root, leaving) if path.suffix.lower() in SUFFIXES]
        return files, sorted(path for path in leaving if path.is_dir() or path.suffix.lower() in SUFFIXES)
