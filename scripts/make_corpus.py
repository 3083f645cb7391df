"""Makes a small corpus of synthesized speech with exact phone times, in NeMo's tarred format.

python scripts/make_corpus.py --out tarred_manifests                                  the corpus of this repository
python scripts/make_corpus.py --out /data/big --train 13500 --shards 16 --speakers 96  ten hours

espeak-ng speaks sentences of a small grammar in many voices. Each utterance gets a level, mild coloured noise and
silence at both ends, and is encoded as Ogg/Opus. The three splits share neither speakers nor sentences. The same
arguments, with the same version of espeak-ng, give the same files.

Needs libespeak-ng (Debian, Ubuntu: apt-get install libespeak-ng1), soundfile and soxr.
"""

import argparse
import io
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
import soxr
from corpus.espeak import SILENCE, EspeakError, Onset, Segment, Synthesizer, phone_segments
from corpus.grammar import sentences
from corpus.readme import Speaker, Tally, readme
from rich.progress import Progress

from nemo_birq.data.shards.audio import with_serial
from nemo_birq.data.shards.writer import Utterance, write_shards

SAMPLE_RATE = 16000
#: Utterances end at a whole millisecond, the grid of the phone times.
SAMPLES_PER_MS = SAMPLE_RATE // 1000

#: espeak-ng calls its British voice "en"; it knows the language "en-gb" but no voice of that name.

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-rp")
#: Variants of a voice by split. A held-out speaker has an accent of the training set, with a new vocal tract.
#: Whispering, croaking and robot voices are left out, and voices with an echo, which would fill pauses and closures.
VARIANTS: dict[str, str] = {
    # The order gives low and high voices to every accent.
    "train": "m1 f1 m3 linda m4 Andrea anika m7 steph m8 grandma max robert pedro Mike antonio Mario paul",
    "validation": "m5 Annie norbert aunty",
    "test": "m6 belinda sandro shelby",
}
SPLITS = tuple(VARIANTS)


def make_speakers(split: str, count: int, first: int, seed: int) -> list[Speaker]:
    """Makes the speakers of a split; accents and variants take turns, pitch and speed are random."""
    rng = random.Random(f"speakers {split} {seed}")
    variants = VARIANTS[split].split()
    # Held-out splits are small. They start at different accents, so that they cover all accents together.
    offset = 4 if split == "test" else 0
    speakers = []
    for k in range(count):
        accent = ACCENTS[(k + offset) % len(ACCENTS)]
        # Each round is shifted, so that each accent occurs with each variant.
        variant = variants[(k + k // len(variants)) % len(variants)]
        pitch, speed = rng.randint(38, 62), rng.randint(115, 155)
        speakers.append(Speaker(f"spk{first + k:03d}", f"{accent}+{variant}", pitch, speed))
    return speakers


def add_room(speech: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Puts speech between two silences, at a random level, in mild coloured noise.

    Args:
        speech: (samples,) floats, from the first phone to the last.
        rng: source of the random choices.

    Returns:
        (lead + samples + trail,) floats in [-1, 1], and lead, the samples of silence before the speech.
    """
    lead, trail = (rng.uniform(0.1, 0.3, size=2) * SAMPLE_RATE).astype(int)
    # Recipes drop utterances shorter than a second.
    trail = max(trail, SAMPLE_RATE - lead - len(speech))
    trail += -(lead + len(speech) + trail) % SAMPLES_PER_MS
    wave = np.pad(speech, (lead, trail))
    wave *= 10 ** (rng.uniform(-28, -22) / 20) / np.sqrt(np.mean(speech**2))

    noise = np.fft.rfft(rng.standard_normal(len(wave)))
    frequency = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    # Amplitude falls by up to 1/f, from white to brown noise. It is flat below 60 Hz, where a slope would have all energy.
    noise *= np.maximum(frequency, 60.0) ** -rng.uniform(0.0, 1.0)
    noise = np.fft.irfft(noise, len(wave))
    ratio = 10 ** (rng.uniform(20, 35) / 20)
    wave += noise * np.sqrt(np.mean(wave[lead : lead + len(speech)] ** 2) / np.mean(noise**2)) / ratio
    return wave * min(1.0, 0.95 / np.abs(wave).max()), int(lead)


def encode(wave: np.ndarray, compression_level: float, serial: int) -> bytes:
    """Encodes (samples,) floats at 16 kHz as Ogg/Opus, with the given serial number in the Ogg pages."""
    buffer = io.BytesIO()
    sf.write(buffer, wave, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=compression_level)
    return with_serial(buffer.getvalue(), serial)  # a fixed one, so that the same speech gives the same bytes


def ctm_lines(name: str, segments: list[Segment], lead: float, duration: float) -> list[str]:
    """Returns CTM lines with the phones of an utterance and the silence around them, from 0 to its duration without a gap.

    Args:
        name: the utterance.
        segments: phones on the time axis of the speech alone, which starts with `segments[0]`.
        lead: seconds of silence before the speech.
        duration: seconds of the whole utterance.
    """
    shift = lead - segments[0].start
    # Boundaries are rounded instead of durations, so that rounding errors cannot add up to a gap.
    bounds = [0, *(round((segment.start + shift) * 1000) for segment in segments)]
    bounds += [round((segments[-1].end + shift) * 1000), round(duration * 1000)]
    phones = [SILENCE, *(segment.phone for segment in segments), SILENCE]
    return [
        f"{name} 1 {start / 1000:.3f} {(end - start) / 1000:.3f} {phone}\n"
        for start, end, phone in zip(bounds[:-1], bounds[1:], phones, strict=True)
        if end > start
    ]


class Take(NamedTuple):
    """One sentence as espeak-ng spoke it, with everything from which an utterance is made."""

    name: str
    number: int
    speaker: str
    text: str
    audio: np.ndarray
    """(samples,) int16 at `sample_rate`."""
    sample_rate: int
    onsets: list[Onset]
    rng: np.random.Generator
    """Generator of the utterance, after the draws for its speaker."""


def speak(
    split: str, count: int, shards: int, speakers: list[Speaker], texts: Iterator[str], synthesizer: Synthesizer, seed: int
) -> Iterator[Take]:
    """Synthesizes a split, one utterance at a time, in the order of the shards.

    Utterance n belongs to shard n % shards. In each shard, the speakers take turns in a new random order each time.
    """
    shuffle = random.Random(f"order {split} {seed}")
    turns: list[list[Speaker]] = [[] for _ in range(shards)]
    for number in range(count):
        turn = turns[number % shards]
        if not turn:
            turn.extend(shuffle.sample(speakers, len(speakers)))
        speaker, text = turn.pop(), next(texts)
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        speed = speaker.speed + int(rng.integers(-8, 9))
        pitch = speaker.pitch + int(rng.integers(-4, 5))
        audio, onsets = synthesizer.speak(text, speaker.voice, speed, pitch)
        name = f"{speaker.name}-{split}-{number:05d}"
        yield Take(name, number, speaker.name, text, audio, synthesizer.sample_rate, onsets, rng)


def record(take: Take, compression_level: float) -> tuple[Utterance, list[str]]:
    """Makes an encoded utterance, and the CTM lines of its phones, from the speech of espeak-ng."""
    segments = phone_segments(take.audio, take.sample_rate, take.onsets)
    # The silence at both ends is replaced, because espeak-ng's is digital and only as long as the first stop's closure.
    while segments[0].phone == SILENCE:
        segments.pop(0)
    while segments[-1].phone == SILENCE:
        segments.pop()
    first, last = (round(t * take.sample_rate) for t in (segments[0].start, segments[-1].end))
    wave, lead = add_room(soxr.resample(take.audio[first:last] / 32768, take.sample_rate, SAMPLE_RATE), take.rng)

    duration = len(wave) / SAMPLE_RATE
    data = encode(wave, compression_level, serial=take.number)
    line = {"duration": duration, "text": take.text, "speaker": take.speaker}
    return Utterance(f"{take.name}.opus", data, line), ctm_lines(take.name, segments, lead / SAMPLE_RATE, duration)


def write_loose(utterances: Iterator[Utterance], out: Path) -> None:
    """Writes single audio files, and a manifest with relative paths."""
    (out / "audio").mkdir(parents=True)
    # NeMo names metrics by the manifest and refuses "manifest.json".
    with open(out / f"{out.name}.json", "w", encoding="utf-8") as manifest:
        for utterance in utterances:
            path = f"audio/{utterance.member}"
            (out / path).write_bytes(utterance.audio)
            manifest.write(json.dumps({"audio_filepath": path, **utterance.line}) + "\n")


def make_corpus(out: Path, args: argparse.Namespace, progress: Callable[[str, int], Callable[[], None]]) -> None:
    """Makes the whole corpus in the folder `out`, which exists and is empty."""
    synthesizer = Synthesizer()
    texts = sentences(random.Random(f"sentences {args.seed}"))
    counts = {"train": args.train, "validation": args.validation, "test": args.test}
    speaker_counts = {"train": args.speakers, "validation": args.held_out_speakers, "test": args.held_out_speakers}
    speakers: dict[str, list[Speaker]] = {}
    for split in SPLITS:
        first = sum(len(group) for group in speakers.values())
        speakers[split] = make_speakers(split, speaker_counts[split], first, args.seed)
        for speaker in speakers[split]:
            synthesizer.check_voice(speaker.voice)
    tallies = {split: Tally() for split in SPLITS}
    # The sound of espeak-ng depends on earlier sentences, so one process speaks; encoding takes most of the time.
    with get_context("spawn").Pool(args.workers) as pool:
        for split in SPLITS:
            folder = out / split
            folder.mkdir()
            shards = args.shards if split == "train" else 1
            takes = speak(split, counts[split], shards, speakers[split], texts, synthesizer, args.seed)
            recorded = pool.imap(partial(record, compression_level=args.compression_level), takes, chunksize=8)
            step = progress(split, counts[split])
            with open(folder / "phones.ctm", "w", encoding="utf-8") as ctm:

                def utterances(recorded=recorded, ctm=ctm, step=step, tally=tallies[split]) -> Iterator[Utterance]:
                    for utterance, lines in recorded:
                        tally.utterances += 1
                        tally.seconds += utterance.line["duration"]
                        tally.words += len(utterance.line["text"].split())
                        tally.phones.update(line.split()[-1] for line in lines)
                        ctm.writelines(lines)
                        step()
                        yield utterance

                if split == "train":
                    write_shards(utterances(), folder, shards)
                else:
                    write_loose(utterances(), folder)
    text = readme(args, synthesizer.version, speakers, tallies)
    (out / "README.md").write_text(text, encoding="utf-8")


def positive(text: str) -> int:
    """Parses an argument that is a whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus; new, or empty")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default 0)")
    parser.add_argument("--train", type=positive, default=480, help="training utterances, of 2.7 s on average (default 480)")
    parser.add_argument("--validation", type=positive, default=60, help="validation utterances (default 60)")
    parser.add_argument("--test", type=positive, default=60, help="test utterances (default 60)")
    parser.add_argument("--shards", type=positive, default=4, help="shards of the training set (default 4)")
    parser.add_argument("--speakers", type=positive, default=24, help="speakers of the training set (default 24)")
    parser.add_argument("--held-out-speakers", type=positive, default=4, help="speakers of each other set (default 4)")
    parser.add_argument(
        "--compression-level",
        type=float,
        default=0.955,
        help="level of libsndfile, 0 to 1; a higher level makes smaller files (default 0.955, about 20 kbit/s)",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=os.cpu_count(),
        help="number of processes; the files do not depend on it (default: all cores)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the corpus in --out once the new one is made")
    args = parser.parse_args()
    if not 0 <= args.compression_level <= 1:
        parser.error(f"--compression-level {args.compression_level:g} must be between 0 and 1")
    if args.train < args.shards:
        parser.error("--train must be at least --shards: a shard cannot be empty")
    out: Path = args.out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not args.overwrite:
            parser.error(f"{args.out} is not empty: name another folder, or add --overwrite")
        # A mistyped path must not delete other files.
        if not (out / "train" / "tarred_audio_manifest.json").is_file():
            parser.error(f"{args.out} is not a corpus and is not overwritten: name another folder")

    # The temporary folder is beside the target, so that the renaming stays on one file system.
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        made = work / "corpus"
        made.mkdir()
        with Progress() as bar:

            def progress(name: str, total: int) -> Callable[[], None]:
                task = bar.add_task(name, total=total)
                return lambda: bar.advance(task)

            make_corpus(made, args, progress)
        if out.exists():
            os.replace(out, work / "old")
        os.replace(made, out)
    except EspeakError as error:
        sys.exit(f"error: {error}")
    finally:
        shutil.rmtree(work)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
