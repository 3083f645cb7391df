"""LibriSpeech, as it is unpacked from openslr.org/12: LibriSpeech/<part>/<speaker>/<chapter>/*.flac and *.trans.txt."""

from dataclasses import dataclass
from pathlib import Path

from nemo_birq.data.shards.recipes.inputs import files_under, fingerprint, require_folder
from nemo_birq.data.shards.segments import Listing, Segment, Skipped
from nemo_birq.data.shards.workers import Workers
from nemo_birq.utils.progress import Progress, track
from nemo_birq.utils.text_files import read_lines

TRAIN_960 = ("train-clean-100", "train-clean-360", "train-other-500")
PARTS = (*TRAIN_960, "dev-clean", "dev-other", "test-clean", "test-other")


@dataclass(frozen=True)
class LibriSpeechRecipe:
    """Utterances of some parts, with text, speaker and language, read by Lhotse's recipe for one line of a transcript.

    Lhotse's recipe for the whole corpus stops at the first file that it cannot open.
    """

    root: Path
    parts: tuple[str, ...]
    lower_case: bool = False

    def describe(self) -> dict:
        files = []
        for part in self.parts:
            remedy = "run lhotse download librispeech --full <folder>, and name <folder>/LibriSpeech"
            require_folder(self.root / part, remedy)
            files += [path for path in files_under(self.root / part) if path.suffix in (".flac", ".txt")]
        found = {"kind": "librispeech", "input": [str(self.root.resolve())], "parts": list(self.parts)}
        return found | {"lower_case": self.lower_case} | fingerprint(self.root, files)

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        from lhotse.audio import AudioLoadingError
        from lhotse.recipes.librispeech import parse_utterance

        segments: list[Segment] = []
        skipped: list[Skipped] = []
        for part in self.parts:
            transcripts = [path for path in files_under(self.root / part) if path.name.endswith(".trans.txt")]
            for transcript in track(transcripts, progress, f"transcripts of {part}"):
                for name, line in _read_transcript(transcript, skipped):
                    try:
                        found = parse_utterance(self.root / part, line, {})
                    except AudioLoadingError:
                        skipped.append(Skipped(name, "unreadable", "Lhotse finds no audio in it"))
                        continue
                    if found is None:
                        skipped.append(Skipped(name, "missing", f"{transcript.name} names it, but there is no {name}.flac"))
                    else:
                        segments.append(self._segment(part, *found))
        return Listing.of(segments, skipped)

    def _segment(self, part: str, recording, supervision) -> Segment:
        text = supervision.text.lower() if self.lower_case else supervision.text
        line = {"text": text, "speaker": supervision.speaker, "lang": "en", "part": part}
        path = str(Path(recording.sources[0].source).absolute())
        return Segment(path, recording.id, recording.id, duration=recording.duration, line=line)


def _read_transcript(path: Path, skipped: list[Skipped]):
    for raw in read_lines(path):
        name = raw.split(maxsplit=1)[0].decode("ascii", "replace") if raw.strip() else ""
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            skipped.append(Skipped(name, "not text", f"its line in {path.name} is not UTF-8"))
            continue
        if len(line.split(maxsplit=1)) == 2:
            yield name, line
        elif name:
            skipped.append(Skipped(name, "not text", f"{path.name} has no text for it"))
