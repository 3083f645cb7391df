"""Times of the phones of real speech, by forced alignment with pocketsphinx.

    pip install pocketsphinx
    python -m benchmarks.aligned_phones CORPUS/pretrain.jsonl CORPUS/dev.jsonl CORPUS/test.jsonl --out aligned

Each manifest names single files and lists the ARPAbet phones of each word (key ``phones``, as in speechocean762). FOLDER
gets a CTM file for each of them: ``aligned/pretrain.ctm``. The acoustic model of the aligner comes with its package. It was
trained on other speech, and does not depend on the encoders that are compared. Words keep the phones of the manifest; only
pauses between words are found.

With ``--reference CTM``, a file with true times, such as those of synthetic speech, the phones are read from that file, and
the command reports how well the aligner finds them.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from lhotse.supervision import AlignmentItem
from rich.progress import track

from nemo_birq.data.dataset import read_audio
from nemo_birq.data.manifests import read_manifest
from nemo_birq.evaluation.label_quality.alignments import phones_at, read_alignments
from nemo_birq.evaluation.label_quality.phone_sets import SILENCE, phone_name
from nemo_birq.utils.files import read_json, write_json, write_text

SAMPLE_RATE = 16000
FRAME = 0.01  # seconds
FILLERS = ("SIL", "+")
"""Beginnings of the names that pocketsphinx gives to silence and to noises such as ``+SPN+``."""
SCHWA, ITS_NAME = "AX", "AH"
"""The aligner's phone set has no symbol of its own for schwa."""


class Utterance(NamedTuple):
    """An utterance to align."""

    name: str
    samples: np.ndarray
    """(N,) float32 between -1 and 1, at ``SAMPLE_RATE``."""
    words: list[list[str]]
    """Phones of each word, without stress."""
    true: list[AlignmentItem]
    """True intervals; empty without a reference."""


class Aligner:
    """Finds the times of known phones.

    The beams are wider than pocketsphinx's, which lose some utterances of speechocean762. With its lattice pass
    (``bestpath``), phone alignment fails for many of them.
    """

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self.decoder = Decoder(lm=None, bestpath=False, dither=False, beam=1e-80, pbeam=1e-80, wbeam=1e-60, loglevel="FATAL")
        self.words: set[str] = set()

    def align(self, utterance: Utterance) -> list[AlignmentItem] | None:
        """Returns the intervals of phones and silence in order; None if pocketsphinx finds no alignment."""
        names = [self.word(phones) for phones in utterance.words]
        self.decoder.set_align_text(" ".join(names))
        try:
            self._decode(utterance.samples)
            self.decoder.set_alignment()
            self._decode(utterance.samples)
        except RuntimeError:
            return None
        found = [
            AlignmentItem(_symbol(phone.name), phone.start * FRAME, phone.duration * FRAME)
            for phone in self.decoder.get_alignment().phones()
        ]
        return found if spoken(found) == [phone for phones in utterance.words for phone in phones] else None

    def word(self, phones: list[str]) -> str:
        """Returns the name of a word of these phones, which the dictionary gets if it is new."""
        name = "-".join(["word", *phones]).lower()
        if name not in self.words:
            self.words.add(name)
            self.decoder.add_word(name, " ".join(phones), True)
        return name

    def _decode(self, samples: np.ndarray) -> None:
        self.decoder.start_utt()
        self.decoder.process_raw(np.int16(np.clip(samples, -1, 1) * 32767).tobytes(), full_utt=True)
        self.decoder.end_utt()


def _symbol(name: str) -> str:
    return SILENCE if name.startswith(FILLERS) else name


def spoken(items: Iterable[AlignmentItem]) -> list[str]:
    """Returns the phones, without silence."""
    return [item.symbol for item in items if item.symbol != SILENCE]


def spoken_words(items: Iterable[AlignmentItem]) -> list[list[str]]:
    """Returns the phones between silences, which serve as words where only phones are known."""
    runs = groupby(items, key=lambda item: item.symbol == SILENCE)
    return [spoken(run) for silent, run in runs if not silent]


def read_utterances(manifest: Path, reference: Path | None) -> Iterator[Utterance]:
    """Reads the utterances of a manifest, with a progress bar; the phones of ``reference`` replace those of the lines."""
    lines = read_manifest(str(manifest))
    names = [Path(line["audio_filepath"]).stem for line in lines]
    true = read_alignments(reference, set(names)).phones if reference else {}
    for name, line in track(zip(names, lines, strict=True), f"aligning {manifest.name}", len(lines), transient=True):
        path = str(manifest.parent / line["audio_filepath"])
        samples = read_audio(path, line.get("offset", 0.0), line["duration"], SAMPLE_RATE)
        items = [item._replace(symbol=ITS_NAME) if item.symbol == SCHWA else item for item in true.get(name, ())]
        words = spoken_words(items) if reference else [[phone_name(phone) for phone in word] for word in line["phones"]]
        yield Utterance(name, samples, words, items)


def agreement(found: list[AlignmentItem], true: list[AlignmentItem]) -> tuple[np.ndarray, np.ndarray]:
    """Compares an alignment with the true one, which has the same phones.

    Returns:
        For each ``FRAME``, whether both name the same phone; for each phone, the difference of its starts, in seconds.
    """
    times = np.arange(FRAME / 2, true[-1].end, FRAME)
    equal = np.array([one == other for one, other in zip(phones_at(found, times), phones_at(true, times), strict=True)])
    starts = ([item.start for item in items if item.symbol != SILENCE] for items in (found, true))
    return equal, np.abs(np.subtract(*starts))


def summarize(compared: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Returns the share of equal frames, the median difference of starts, and the share of starts within 20 ms."""
    equal, starts = (np.concatenate(values) for values in zip(*compared, strict=True))
    return {
        "equal_frames": round(float(equal.mean()), 4),
        "median_seconds": round(float(np.median(starts)), 4),
        "within_20_ms": round(float((starts <= 0.02).mean()), 4),
    }


def align_set(manifest: Path, reference: Path | None, aligner: Aligner, path: Path) -> dict[str, int | float]:
    """Writes the CTM file of a manifest, and returns its numbers."""
    lines, compared, left_out = [], [], 0
    for utterance in read_utterances(manifest, reference):
        items = aligner.align(utterance)
        if items is None:
            left_out += 1
            click.echo(f"{manifest.name}: {utterance.name} cannot be aligned and is left out")
            continue
        lines += [f"{utterance.name} 1 {item.start:.2f} {item.duration:.2f} {item.symbol}\n" for item in items]
        if utterance.true:
            compared.append(agreement(items, utterance.true))
    write_text(path, "".join(lines))
    return {"intervals": len(lines), "left_out": left_out} | (summarize(compared) if compared else {})


@click.command(help=__doc__)
@click.argument("manifests", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the CTM files.")
@click.option("--reference", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CTM file with true times.")
@click.option("--record", type=click.Path(path_type=Path), help="JSON file to which the numbers are added.")
def main(manifests: tuple[Path, ...], out: Path, reference: Path | None, record: Path | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    aligner, numbers = Aligner(), {}
    for manifest in manifests:
        path = out / f"{manifest.stem}.ctm"
        numbers[manifest.stem] = align_set(manifest, reference, aligner, path)
        click.echo(f"{path}: {numbers[manifest.stem]}")
    if record:
        earlier = read_json(record)["sets"] if record.is_file() else {}
        write_json(record, {"command": "python -m benchmarks.aligned_phones", "sets": earlier | numbers})


if __name__ == "__main__":
    main()
