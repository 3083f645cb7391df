"""Lhotse cuts: a .jsonl or .jsonl.gz file."""

from dataclasses import dataclass
from pathlib import Path

from nemo_birq.data.shards.segments import BuildError, Listing, Segment
from nemo_birq.utils.files import file_sha256
from nemo_birq.utils.progress import Progress


@dataclass(frozen=True)
class CutsRecipe:
    """Every cut becomes an utterance, with text, speaker and language of its supervisions."""

    path: Path

    def describe(self) -> dict:
        if not self.path.is_file():
            raise FileNotFoundError(f"there are no cuts {self.path}")
        return {"kind": "cuts", "input": [str(self.path.resolve())], "sha256": file_sha256(self.path)[:16]}

    def read(self, scratch: Path, workers: int, progress: Progress) -> Listing:
        from lhotse import CutSet

        from nemo_birq.data.shards.recipes.supervisions import segment_of_cut

        try:
            found = [segment_of_cut(cut) for cut in CutSet.from_jsonl_lazy(self.path)]
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise BuildError(f"{self.path} holds something else than Lhotse cuts, or is damaged: {error!r}") from error
        segments = [entry for entry in found if isinstance(entry, Segment)]
        return Listing(segments, [entry for entry in found if not isinstance(entry, Segment)])
