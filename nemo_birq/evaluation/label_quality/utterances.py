"""Utterances of manifests or shards that have an alignment, which are evaluated."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.subset import draw_hours
from nemo_birq.evaluation.label_quality.alignments import Alignments, check_alignments, read_alignments
from nemo_birq.extraction.data import SpeechData, batches_by_length, make_loader, open_data

BATCH_SECONDS = 120.0
SAMPLE_RATE = 16_000  # Hz; each model loads the signals at its own sample rate


class NamedSpeech(NamedTuple):
    """Utterances by name, which is that of their audio file or member of a shard without folder and suffix."""

    data: SpeechData
    rows: dict[str, int]
    """Numbers of the utterances in ``data``."""
    lines: dict[str, dict]
    """Manifest lines of the utterances; paths of single files are absolute."""

    def choose(self, names: Iterable[str]) -> "NamedSpeech":
        """Returns only the named utterances, in this order."""
        names = list(names)
        return self._replace(rows={n: self.rows[n] for n in names}, lines={n: self.lines[n] for n in names})

    def load(self, sample_rate: int) -> Iterator[SpeechBatch]:
        """Loads each whole utterance once, the short ones first; the batches do not depend on the location of the audio.

        Args:
            sample_rate: sample rate in Hz, to which other audio is resampled.
        """
        rows = [self.rows[name] for name in sorted(self.rows)]
        batches = batches_by_length(rows, self.data.durations, BATCH_SECONDS, longest_first=False)
        return (batch.speech for batch in make_loader(self.data._replace(sample_rate=sample_rate), batches, workers=0))


class Utterances(NamedTuple):
    """Utterances with an alignment."""

    speech: NamedSpeech
    alignments: Alignments
    unaligned: list[str]
    """Utterances of the manifest without an alignment, which are left out."""
    coverage: float
    """Share of their audio in intervals."""

    @property
    def lines(self) -> dict[str, dict]:
        """Returns the lines of the manifest by utterance."""
        return self.speech.lines

    @property
    def seconds(self) -> float:
        return sum(line["duration"] for line in self.lines.values())


def utterance_name(line: dict) -> str:
    """Returns the name of an utterance in alignments."""
    return Path(line["audio_filepath"]).stem


def rows_by_name(data: SpeechData, lines: list[dict]) -> dict[str, int]:
    """Returns the number of each utterance by its name.

    Args:
        data: manifests and shards.
        lines: manifest lines of all utterances, in order.

    Raises:
        ValueError: two utterances have the same name, or an utterance is a segment of its file.
    """
    manifest = data.sources[0].manifest
    cut = [line["audio_filepath"] for line in lines if line.get("offset")]
    if cut:
        raise ValueError(
            f"manifest {manifest}: {cut[0]} begins at an offset; alignments are by file, so write each segment to a file"
        )
    name, count = Counter(map(utterance_name, lines)).most_common(1)[0]
    if count > 1:
        raise ValueError(f"manifest {manifest} has {count} files named {name}; alignments cannot tell them apart")
    return {utterance_name(line): row for row, line in enumerate(lines)}


def open_speech(data: str | Path, tars: str | None = None) -> NamedSpeech:
    """Opens the utterances of manifests or shards.

    Args:
        data, tars: see ``extraction.data.open_data``.

    Raises:
        FileNotFoundError, ValueError: see ``open_data`` and ``rows_by_name``; also if an utterance cannot be used.
    """
    opened = open_data(str(data), tars, SAMPLE_RATE)
    for source, index in zip(opened.sources, opened.indexes, strict=True):
        if index.num_lost:
            raise ValueError(
                f"{index.num_lost} of {len(index) + index.num_lost} utterances of {source.manifest} cannot be used, for "
                f"example: {index.problems[0]}. Repair or remove them, because numbers compare only on the same utterances"
            )
    lines = list(opened.lines())
    rows = rows_by_name(opened, lines)
    return NamedSpeech(opened, rows, dict(zip(rows, lines, strict=True)))


def read_utterances(
    data: str | Path, alignments: str | Path, hours: float | None = None, tars: str | None = None
) -> Utterances:
    """Joins utterances and alignments.

    Args:
        data: a manifest, a folder of shards, or with ``tars`` a pattern of sharded manifests.
        alignments: see ``alignments.read_alignments``.
        hours: hours of audio, drawn by ``draw_hours`` from the utterances in the order of their names.
        tars: see ``extraction.data.open_data``.

    Raises:
        FileNotFoundError, ValueError: see ``open_speech``, ``read_alignments`` and ``check_alignments``.
    """
    speech = open_speech(data, tars)
    found = read_alignments(alignments, set(speech.lines))
    unaligned = sorted(speech.lines.keys() - found.phones.keys())
    aligned = sorted(found.phones)
    chosen = [aligned[i] for i in draw_hours([speech.lines[name]["duration"] for name in aligned], hours)]
    found = found._replace(phones={name: found.phones[name] for name in chosen})
    coverage = check_alignments(found.phones, {name: speech.lines[name]["duration"] for name in chosen})
    return Utterances(speech.choose(chosen), found, unaligned, coverage)
