"""The corpus of tarred_manifests/ is complete and consistent, and its phones fit the audio."""

import io
import json
import tarfile
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.helpers.paths import CORPUS

pytestmark = pytest.mark.unit

SPLITS = ("train", "validation", "test")
SHARDS = 4
RATE = 16000
SIBILANTS = {"S", "SH", "CH"}
VOWELS = {"IY", "IH", "EY", "EH", "AE", "AA", "AO", "OW", "UH", "UW", "AH", "ER", "AX", "AY", "AW", "OY"}
CONSONANTS = {"P", "B", "T", "D", "K", "G", "CH", "JH", "F", "V", "TH", "DH", "S", "Z", "SH", "ZH", "HH"}
CONSONANTS |= {"M", "N", "NG", "L", "R", "W", "Y"}


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@lru_cache
def manifest(split: str) -> list[dict]:
    return read_lines(CORPUS / split / ("tarred_audio_manifest.json" if split == "train" else f"{split}.json"))


@lru_cache
def members(shard: int) -> dict[str, bytes]:
    """Returns the files of a shard by name, in order."""
    with tarfile.open(CORPUS / "train" / f"audio_{shard}.tar") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@lru_cache
def audio(split: str) -> dict[str, np.ndarray]:
    """Returns decoded samples, (samples,), by utterance."""
    files = {}
    for line in manifest(split):
        name = line["audio_filepath"]
        data = members(line["shard_id"])[name] if split == "train" else (CORPUS / split / name).read_bytes()
        wave, rate = sf.read(io.BytesIO(data), dtype="float32")
        assert rate == RATE and wave.ndim == 1, name
        files[Path(name).stem] = wave
    return files


@lru_cache
def phones(split: str) -> dict[str, list[tuple[float, float, str]]]:
    """Returns (start, duration, phone) in seconds by utterance."""
    found = defaultdict(list)
    for line in (CORPUS / split / "phones.ctm").read_text(encoding="utf-8").splitlines():
        name, channel, start, duration, phone = line.split(" ")
        assert channel == "1"
        found[name].append((float(start), float(duration), phone))
    return dict(found)


def cut(wave: np.ndarray, start: float, duration: float, shift: float = 0.0) -> np.ndarray:
    """Returns the samples of a time span in seconds, moved by `shift` seconds."""
    begin, end = (round((t + shift) * RATE) for t in (start, start + duration))
    return wave[max(begin, 0) : max(end, 0)]


def level(wave: np.ndarray) -> float:
    """Returns the RMS in dB."""
    return 10 * np.log10(np.mean(np.square(wave, dtype=np.float64)) + 1e-12)


def high_share(wave: np.ndarray) -> float:
    """Returns the share of the energy above 2.5 kHz."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 4096)) ** 2
    return float(spectrum[2500 * 4096 // RATE :].sum() / spectrum.sum())


def is_sibilant_error(split: str, shift: float) -> float:
    """Error rate, balanced over both classes, of telling sibilants from vowels by their high frequencies.

    `shift` moves the alignment against the sound, in seconds.
    """
    wrong: dict[bool, list[bool]] = {True: [], False: []}
    for name, wave in audio(split).items():
        for start, duration, phone in phones(split)[name]:
            if duration >= 0.04 and (phone in SIBILANTS or phone in VOWELS):
                piece = cut(wave, start, duration, shift)
                if len(piece) > 0.02 * RATE:
                    wrong[phone in SIBILANTS].append((high_share(piece) > 0.5) != (phone in SIBILANTS))
    return float(np.mean([np.mean(wrong[True]), np.mean(wrong[False])]))


def test_small_enough_to_be_in_the_repository():
    sizes = {path: path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 6_000_000
    assert max(sizes.values()) < 2_000_000


def test_each_shard_holds_what_its_manifest_lists_in_that_order():
    joined = []
    for shard in range(SHARDS):
        lines = read_lines(CORPUS / "train" / "sharded_manifests" / f"manifest_{shard}.json")
        assert [line["audio_filepath"] for line in lines] == list(members(shard))
        assert {line["shard_id"] for line in lines} == {shard}
        joined += lines
    assert joined == manifest("train")
    assert len({line["audio_filepath"] for line in joined}) == len(joined)
    assert len(list((CORPUS / "train").glob("*.tar"))) == SHARDS


@pytest.mark.parametrize("split", ["validation", "test"])
def test_single_files_are_those_of_the_manifest(split):
    names = [line["audio_filepath"] for line in manifest(split)]
    assert len(set(names)) == len(names)
    assert set(names) == {f"audio/{path.name}" for path in (CORPUS / split / "audio").iterdir()}


def test_members_do_not_depend_on_who_made_them():
    for shard in range(SHARDS):
        with tarfile.open(CORPUS / "train" / f"audio_{shard}.tar") as tar:
            for member in tar:
                assert member.name.endswith(".opus")
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)


@pytest.mark.parametrize("split", SPLITS)
def test_lines_are_complete_and_durations_exact(split):
    shard_id = {"shard_id"} if split == "train" else set()
    for line in manifest(split):
        assert set(line) == {"audio_filepath", "duration", "text", "speaker"} | shard_id
        wave = audio(split)[Path(line["audio_filepath"]).stem]
        assert abs(line["duration"] - len(wave) / RATE) < 1e-4
        assert 1 <= line["duration"] <= 5
        assert 2 <= len(line["text"].split(" ")) <= 8
        assert set(line["text"]) <= set("abcdefghijklmnopqrstuvwxyz ")


def test_splits_share_no_speaker_and_no_sentence():
    for key in ("speaker", "text"):
        values = [{line[key] for line in manifest(split)} for split in SPLITS]
        assert len(set.union(*values)) == sum(len(group) for group in values)


def test_words_of_held_out_sentences_are_known():
    known = {word for line in manifest("train") for word in line["text"].split()}
    assert 80 <= len(known) <= 120
    for split in ("validation", "test"):
        assert {word for line in manifest(split) for word in line["text"].split()} <= known


def test_shards_mix_speakers():
    by_shard = [Counter(line["speaker"] for line in manifest("train") if line["shard_id"] == n) for n in range(SHARDS)]
    everyone = {line["speaker"] for line in manifest("train")}
    for shard in by_shard:
        assert set(shard) == everyone
        assert max(shard.values()) <= 2 * min(shard.values())
    # In order of speakers, a window of the tar would hold a few of them only.
    order = [line["speaker"] for line in manifest("train")]
    assert all(len(set(order[i : i + 24])) >= 12 for i in range(len(order) - 24))


@pytest.mark.parametrize("split", SPLITS)
def test_phones_cover_each_utterance_exactly(split):
    assert set(phones(split)) == {Path(line["audio_filepath"]).stem for line in manifest(split)}
    for line in manifest(split):
        time = 0.0
        for start, duration, _ in phones(split)[Path(line["audio_filepath"]).stem]:
            assert abs(start - time) < 1e-6 and duration > 0
            time = start + duration
        assert abs(time - line["duration"]) < 1e-4


@pytest.mark.parametrize("split", SPLITS)
def test_phone_inventory(split):
    counts = Counter(phone for track in phones(split).values() for _, _, phone in track)
    assert set(counts) == VOWELS | CONSONANTS | {"SIL"}
    if split == "train":
        assert min(counts.values()) >= 20


@pytest.mark.parametrize("split", SPLITS)
def test_silence_is_silent(split):
    edges, speech, pauses = [], [], []
    for name, wave in audio(split).items():
        track = phones(split)[name]
        assert track[0][2] == track[-1][2] == "SIL"
        assert 0.09 <= track[0][1] <= 0.32
        in_speech = level(cut(wave, track[1][0], track[-1][0] - track[1][0]))
        # Each utterance on its own: the noise is at least 20 dB below the speech; the codec may add a little.
        for start, duration, _ in (track[0], track[-1]):
            assert level(cut(wave, start, duration)) < in_speech - 12, name
            edges.append(level(cut(wave, start, duration)) - in_speech)
        pauses += [level(cut(wave, s, d)) - in_speech for s, d, phone in track[1:-1] if phone == "SIL"]
        speech += [level(cut(wave, s, d)) - in_speech for s, d, phone in track if phone in VOWELS]
    assert np.median(speech) - np.median(edges) > 20
    assert np.median(speech) - np.median(pauses) > 20


@pytest.mark.parametrize("split", SPLITS)
def test_speech_starts_where_the_first_silence_ends(split):
    """An independent detector finds the first 5 ms that are clearly louder than the noise of the leading silence."""
    step = RATE // 200
    differences = []
    for name, wave in audio(split).items():
        start = phones(split)[name][1][0]
        frames = wave[: len(wave) // step * step].reshape(-1, step)
        levels = np.array([level(frame) for frame in frames])
        floor = levels[: int(start / 0.005) - 4].max()
        differences.append(0.005 * np.flatnonzero(levels > floor + 3)[0] - start)
    assert abs(np.median(differences)) < 0.010
    assert np.mean(np.abs(differences) < 0.025) > 0.8


@pytest.mark.parametrize("split", SPLITS)
def test_sibilants_hiss_and_vowels_do_not(split):
    shares = defaultdict(list)
    for name, wave in audio(split).items():
        for start, duration, phone in phones(split)[name]:
            shares[phone].append(high_share(cut(wave, start, duration)))
    vowels = [share for phone in VOWELS for share in shares[phone]]
    for phone in ("S", "SH"):
        assert np.median(shares[phone]) > 5 * np.median(vowels)


@pytest.mark.parametrize("split", SPLITS)
def test_a_shifted_alignment_fits_worse(split):
    aligned = is_sibilant_error(split, 0.0)
    assert aligned < 0.02
    for shift in (-0.06, 0.06):
        assert is_sibilant_error(split, shift) > 0.2
    # Half of that is seen as well: the times are right to within a few hundredths of a second.
    for shift in (-0.035, 0.035):
        assert is_sibilant_error(split, shift) > aligned + 0.02
