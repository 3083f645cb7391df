"""The AMI meeting corpus, as Lhotse downloads it: wav_db/<meeting>/audio/*.wav and the manual annotations 1.6.2."""

import shutil
import zipfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import ParseError

import soundfile

from nemo_birq.data.audio.errors import said_by
from nemo_birq.data.shards.recipes.inputs import files_under, fingerprint, is_companion, require_folder
from nemo_birq.data.shards.segments import BuildError, Listing, Segment, Skipped
from nemo_birq.data.shards.workers import Workers
from nemo_birq.utils.progress import Progress

FILES = {"ihm": "*Headset-?.wav", "sdm": "*Array1-01.wav"}
ANNOTATIONS = "ami_public_manual_1.6.2"


@dataclass(frozen=True)
class AmiRecipe:
    """The annotated utterances of one split, cut out of the meetings, with Lhotse's splits and text normalization.

    Meetings are read one by one, because Lhotse's recipe for the whole corpus stops at the first file that it cannot open.
    """

    root: Path
    mic: str = "ihm"
    """ihm: each speaker's own headset; sdm: the first microphone of the first array."""
    split: str = "train"
    partition: str = "full-corpus-asr"
    text: str = "kaldi"

    def describe(self) -> dict:
        remedy = f"run lhotse download ami --mic {self.mic} <folder>, and name <folder>"
        require_folder(self.root, remedy)
        files = self._files()
        if not files:
            raise FileNotFoundError(f"{self.root} holds no {FILES[self.mic]}: {remedy}")
        chosen = {"mic": self.mic, "split": self.split, "partition": self.partition, "text": self.text}
        return {"kind": "ami", "input": [str(self.root.resolve())]} | chosen | fingerprint(self.root, files)

    def read(self, scratch: Path, workers: Workers, progress: Progress) -> Listing:
        from lhotse import RecordingSet
        from lhotse.recipes.ami import PARTITIONS, parse_ami_annotations, prepare_supervision_ihm, prepare_supervision_other

        from nemo_birq.data.shards.recipes.supervisions import segment_of_supervision

        folder = self._annotations(scratch)
        try:
            annotations = parse_ami_annotations(folder, normalize=self.text)
        except (OSError, KeyError, ParseError) as error:
            raise BuildError(
                f"the annotations in {folder} are damaged or incomplete ({error!r}): download them again"
            ) from error
        wanted = set(PARTITIONS[self.partition][self.split])
        files = sorted((path for path in self._files() if _meeting(path) in wanted), key=_meeting)
        skipped: list[Skipped] = []
        recordings = []
        advance = progress.start("meetings", len(wanted))
        for meeting, paths in groupby(files, key=_meeting):
            found = self._recording(meeting, sorted(paths))
            (skipped if isinstance(found, Skipped) else recordings).append(found)
            advance(1)
        audio = RecordingSet.from_recordings(recordings)
        supervise = prepare_supervision_ihm if self.mic == "ihm" else prepare_supervision_other
        found = [segment_of_supervision(s, audio[s.recording_id]) for s in supervise(audio, annotations)]
        segments = [_in_english(entry) for entry in found if isinstance(entry, Segment)]
        return Listing.of(segments, skipped + [entry for entry in found if isinstance(entry, Skipped)])

    def _files(self) -> list[Path]:
        return [path for path in files_under(self.root) if path.match(FILES[self.mic])]

    def _recording(self, meeting: str, paths: list[Path]):
        from lhotse.recipes.ami import prepare_audio_grouped, prepare_audio_single

        if self.mic == "ihm" and [path.stem[-1] for path in paths] != [str(i) for i in range(len(paths))]:
            # Lhotse numbers the channels in the order of the files, so utterances would get another speaker's microphone.
            return Skipped(meeting, "missing", f"it has only the headsets {[path.stem[-1] for path in paths]}")
        try:
            found = list(prepare_audio_grouped(paths) if self.mic == "ihm" else prepare_audio_single(paths, self.mic))
        except (soundfile.SoundFileError, OSError) as error:
            return Skipped(meeting, "unreadable", f"Lhotse cannot read its audio: {said_by(error)}")
        return found[0] if found else Skipped(meeting, "unsupported", "one of its headsets is a stereo file")

    def _annotations(self, scratch: Path) -> Path:
        folder, archive = self.root / ANNOTATIONS, self.root / f"{ANNOTATIONS}.zip"
        if folder.is_dir() and not any(is_companion(path.name) for path in folder.rglob("*")):
            return folder
        if folder.is_dir():  # Lhotse would read the companions
            copied = scratch / folder.name
            shutil.copytree(folder, copied, ignore=lambda _, names: set(filter(is_companion, names)), dirs_exist_ok=True)
            return copied
        if not archive.is_file():
            raise BuildError(f"{self.root} holds neither {folder.name} nor {archive.name}: run lhotse download ami <folder>")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(
                scratch, [name for name in packed.namelist() if not any(map(is_companion, PurePosixPath(name).parts))]
            )
        return scratch


def _meeting(path: Path) -> str:
    return path.parts[-3]


def _in_english(segment: Segment) -> Segment:
    segment.line["lang"] = "en"
    return segment
