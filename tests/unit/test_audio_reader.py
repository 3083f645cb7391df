"""The reader of audio: wrong headers, several streams, and audio that mixing or scaling would destroy."""

import io
import struct

import numpy as np
import pytest
import soundfile

from nemo_birq.data.audio.channels import mix
from nemo_birq.data.audio.errors import CANCELLING, IN_PART, INTEGERS, JOINED, LENGTH, AudioError
from nemo_birq.data.audio.file import measure, open_audio
from nemo_birq.data.audio.layout import find_layout
from nemo_birq.data.audio.parts import Layout
from nemo_birq.data.dataset import UnusableAudio, read_audio
from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.shards.recipes.folder import FolderRecipe
from nemo_birq.data.shards.verify import verify
from nemo_birq.data.shards.writer import Utterance, write_shards
from nemo_birq.scoring.audio import check_audio
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.shards import dataset_node, lines, make, members, write_lines

pytestmark = pytest.mark.unit

RNG = np.random.default_rng(0)


def noise(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    return np.rint(3000 * RNG.standard_normal(int(seconds * rate))).astype(np.float32) / 32768


def encoded(signal: np.ndarray, rate: int = SAMPLE_RATE, **form) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, rate, **form)
    return buffer.getvalue()


def flac_from_a_pipe(signal: np.ndarray) -> bytes:
    """Encodes FLAC with total samples 0 in its header, which means unknown."""
    data = bytearray(encoded(signal, format="FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def wav(signal: np.ndarray, data: int | None = None, riff: int | None = None, behind: bytes = b"") -> bytes:
    """Encodes WAV with any values of its two length fields."""
    pcm = np.rint(signal * 32768).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(pcm) if data is None else data) + pcm
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body + behind


def mp3(signal: np.ndarray, rate: int = SAMPLE_RATE, info: bool = True, mode: str = "VARIABLE") -> bytes:
    """Encodes MP3 with or without the info frame with its length."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, format="MP3", bitrate_mode=mode, compression_level=0.5) as file:
        file.write(signal)
    data = buffer.getvalue()
    return data if info else data[data.index(b"\xff" + data[1:2], 4) :]


def decoded(source: str | bytes) -> tuple[np.ndarray, list[str]]:
    """Returns all samples, mono, and the kinds of the remedies."""
    with open_audio(source) as audio:
        found = audio.decode(0, audio.header.frames)
    return found.signal[:, 0], [remedy.kind for remedy in found.remedies]


ONE, TWO = noise(1.0), noise(1.5)
SILENT_START = np.concatenate([np.zeros(4000, np.float32), ONE])
WHOLE = {  # bytes of a file, its audio, and the kinds of its remedies
    "flac from a pipe": (flac_from_a_pipe(ONE), ONE, [LENGTH]),
    "flac from a pipe behind a tag": (b"ID3\x03\0\0\0\0\x01\0" + bytes(128) + flac_from_a_pipe(TWO), TWO, [LENGTH]),
    "sox": (wav(ONE, 0x7FFFF000, 0x7FFFF024), ONE, [LENGTH]),
    "2 GiB": (wav(ONE, 0x7FFFFFFF - 36, 0x7FFFFFFF), ONE, [LENGTH]),
    "arecord": (wav(ONE, 0x80000000, 0x80000024), ONE, [LENGTH]),
    "gstreamer": (wav(ONE, 0x7FFF0000, 0x7FFF0024), ONE, [LENGTH]),
    "ffmpeg": (wav(ONE, 0xFFFFFFFF, 0xFFFFFFFF), ONE, [LENGTH]),
    "crashed recorder": (wav(ONE, 0, 0), ONE, [LENGTH]),
    "crashed recorder with a length of RIFF": (wav(SILENT_START, 0, 36), SILENT_START, [LENGTH]),
    "joined wav": (wav(ONE) + wav(TWO) + wav(ONE, 0, 0), np.concatenate([ONE, TWO, ONE]), [JOINED, LENGTH]),
    "a tag behind the audio": (wav(ONE, behind=b"TAG" + bytes(125)), ONE, []),
    "a chunk behind the audio": (wav(ONE, behind=b"LIST" + struct.pack("<I", 4) + b"INFO"), ONE, []),
    "zeros behind the audio": (wav(ONE, behind=bytes(40000)), ONE, []),
    "audio behind the length": (wav(np.concatenate([ONE, TWO]), data=2 * len(ONE)), ONE, [IN_PART]),
}


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_wrong_length_costs_no_sample(tmp_path, case, where):
    data, signal, remedies = WHOLE[case]
    (tmp_path / "x.wav").write_bytes(data)
    source = data if where == "memory" else str(tmp_path / "x.wav")
    found, kinds = decoded(source)
    np.testing.assert_array_equal(found, signal)
    assert kinds == remedies and measure(source).frames == len(signal)
    with open_audio(source) as audio:  # any part, in any order
        for first in (9000, 100, 12000):
            np.testing.assert_array_equal(audio.decode(first, 500).signal[:, 0], signal[first : first + 500])


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_all_of_joined_ogg_streams_is_read(subtype):
    form = {"format": "OGG", "subtype": subtype}
    one, two = encoded(ONE, **form), encoded(np.repeat(noise(1.5, 48000)[:, None], 2, axis=1), 48000, **form)
    found, kinds = decoded(one + two)
    assert len(found) == 2.5 * SAMPLE_RATE and kinds == [JOINED]  # the second stream has another rate and other channels
    np.testing.assert_array_equal(found[: len(ONE)], decoded(one)[0])
    assert 0.5 < np.std(found[len(ONE) :]) / np.std(noise(1.0)) < 1.5
    found, kinds = decoded(one + encoded(TWO, **form)[:70])
    assert len(found) == len(ONE) and kinds == [JOINED, IN_PART]
    assert decoded(one)[1] == []


def test_bytes_that_look_like_an_ogg_page_are_audio():
    data = bytearray(encoded(noise(2.0), format="OGG", subtype="OPUS"))
    data[len(data) // 2 : len(data) // 2 + 6] = b"OggS\x00\x02"
    assert find_layout(bytes(data)) == Layout()


@pytest.mark.parametrize("rate", [16000, 44100])
def test_mp3_frames_are_counted(rate):
    loud_end = np.concatenate([0.01 * noise(2.0, rate), noise(2.0, rate)])
    padding = 4000 / rate  # seconds that the encoder adds in all
    with_info, without, constant = (
        mp3(loud_end, rate),
        mp3(loud_end, rate, info=False),
        mp3(loud_end, rate, False, "CONSTANT"),
    )
    for data, seconds, remedies in (
        (with_info, 4, []),
        (without, 4, [LENGTH]),
        (constant, 4, []),
        (with_info + with_info, 8, [JOINED]),
        (without + with_info, 8, [LENGTH, JOINED]),
        (with_info + without, 8, [LENGTH]),
        (b"ID3\x03\0\0\0\0\x01\0" + bytes(128) + with_info + b"TAG" + bytes(125), 4, []),
    ):
        found, kinds = decoded(data)
        assert kinds == remedies and abs(len(found) / rate - seconds) <= padding
        assert 0.8 < np.std(found[-rate:]) / np.std(loud_end[-rate:]) < 1.1
    with pytest.raises(AudioError, match=r"announces 4\.\d\d s of audio, the file has [23]\.\d\d s"):
        measure(with_info[: len(with_info) * 3 // 4])


@pytest.mark.parametrize(
    ("form", "subtype"), [("WAV", "GSM610"), ("WAV", "NMS_ADPCM_16"), ("AU", "G721_32"), ("AIFF", "DWVW_16")]
)
def test_codecs_that_cannot_seek_are_read_from_the_beginning(form, subtype):
    whole, kinds = decoded(data := encoded(noise(2.0), format=form, subtype=subtype))
    assert len(whole) >= 2 * SAMPLE_RATE and kinds == []
    with open_audio(data) as audio:
        for first in (20000, 5000):
            np.testing.assert_array_equal(audio.decode(first, 1000).signal[:, 0], whole[first : first + 1000])


def test_files_that_end_too_early_or_hold_nothing_are_named():
    for data, message in (
        (wav(ONE, data=70000), "announces 70000 bytes of audio, the file has 32000"),
        (wav(ONE[:0]), "no audio"),
        (wav(ONE[:0], behind=b"LIST" + struct.pack("<I", 4) + b"INFO"), "no audio"),
        (flac_from_a_pipe(TWO)[:30000], "cannot be decoded beyond"),
        *((start, "libsndfile") for start in (b"", b"RIFF", b"RIFF\0\0\0\0WAVEdata", b"OggS", b"fLaC", b"ID3", b"\xff\xfb")),
    ):
        with pytest.raises(AudioError, match=message):
            measure(data)


def test_channels_that_cancel_leave_the_loudest():
    left = noise(1.0)
    for channels, expected in (
        ([left, -left], left),
        ([0.8 * left, -left], -left),
        ([left, -0.9 * left + 0.01 * noise(1.0)], left),
        ([left, left], left),
        ([left, 0 * left], left / 2),
        ([0 * left, 0 * left], 0 * left),
    ):
        mono, remedy = mix(np.stack(channels, axis=1))
        np.testing.assert_allclose(mono, expected, atol=1e-6)
        assert (remedy is not None) == (remedy is not None and remedy.kind == CANCELLING)
        assert (remedy is not None) == bool(np.sum(channels[0] * channels[1]) < 0)
    independent = np.stack([noise(1.0) for _ in range(8)], axis=1)
    np.testing.assert_allclose(mix(independent)[0], independent.mean(axis=1))


def test_integers_stored_as_floats_are_scaled_where_the_scale_is_certain():
    samples = np.rint(3000 * RNG.standard_normal(SAMPLE_RATE))
    found, kinds = decoded(encoded(samples, format="WAV", subtype="FLOAT"))
    np.testing.assert_array_equal(found, (samples / 32768).astype(np.float32))
    assert kinds == [INTEGERS]
    quiet = np.rint(20 * RNG.standard_normal(SAMPLE_RATE))  # below the limit that shows bad samples
    assert decoded(encoded(quiet, format="WAV", subtype="FLOAT"))[1] == [INTEGERS]
    above = 3 * noise(1.0) + 2  # floats above full scale are none
    np.testing.assert_array_equal(decoded(encoded(above, format="WAV", subtype="FLOAT"))[0], above)
    for bad in (256 * samples, samples + 0.25):
        with pytest.raises(AudioError, match="are they integers"):
            decoded(encoded(bad, format="WAV", subtype="FLOAT"))


CLIPS = {
    "pipe.flac": (flac_from_a_pipe(ONE), LENGTH),
    "crash.wav": (wav(ONE, 0, 0), LENGTH),
    "call.wav": (encoded(ONE, format="WAV", subtype="GSM610"), None),
    "radio.ogg": (2 * encoded(ONE[:8000], format="OGG", subtype="VORBIS"), JOINED),
    "phase.wav": (encoded(np.stack([ONE, -ONE], axis=1), format="WAV"), CANCELLING),
    "float.wav": (encoded(ONE * 32768, format="WAV", subtype="FLOAT"), INTEGERS),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The clips as single files with a manifest, and as a shard; each lasts 1 s."""
    path = tmp_path_factory.mktemp("clips")
    (path / "audio").mkdir()
    for name, (data, _) in CLIPS.items():
        (path / "audio" / name).write_bytes(data)
    write_lines(path / "files.json", *({"audio_filepath": f"audio/{name}", "duration": 1.0, "text": "a"} for name in CLIPS))
    write_shards([Utterance(name, data, {"duration": 1.0}) for name, (data, _) in CLIPS.items()], path / "shards", 1)
    return path


@pytest.mark.parametrize("kind", ["files", "shards", "stream"])
def test_training_reads_all_of_them(clips, kind):
    batches = list(build_dataloader(dataset_node(clips, kind), SAMPLE_RATE, 0, 1, training=False))
    assert {name.rpartition("/")[2] for batch in batches for name in batch.ids} == set(CLIPS)
    assert not any(batch.skipped for batch in batches)
    for batch in batches:
        for signal, length in zip(batch.signal, batch.signal_length, strict=True):
            assert abs(int(length) - SAMPLE_RATE) <= 320  # GSM fills its last block
            assert 0.5 < float(signal.std()) / ONE.std() < 1.5


def test_builder_and_verification_read_all_of_them(clips, tmp_path):
    card = make(FolderRecipe(clips / "audio"), tmp_path / "out")
    assert card["utterances"] == len(CLIPS) == len(lines(tmp_path / "out")) and not card["skipped"]
    kinds = [kind for _, kind in CLIPS.values() if kind]
    assert {kind: total["utterances"] for kind, total in card["remedies"].items()} == {k: kinds.count(k) for k in kinds}
    assert card["remedies"][LENGTH]["hours"] == pytest.approx(2 / 3600, abs=1e-6)
    assert {entry["name"]: entry["kind"] for entry in card["remedied"]} == {n: k for n, (_, k) in CLIPS.items() if k}
    found = members(tmp_path / "out")
    for name in ("pipe", "crash", "phase", "float"):
        np.testing.assert_array_equal(found[f"{name}.flac"] / 32768, ONE)
    for folder, fast in ((tmp_path / "out", True), (clips / "shards", False), (clips / "shards", True)):
        assert verify(folder, not fast, 1, ProgressBars(disable=True)) == ([], len(CLIPS))


def test_scoring_refuses_what_nemo_would_read_wrongly(clips):
    for name, (_, kind) in CLIPS.items():
        manifest = write_lines(clips / f"{name}.json", {"audio_filepath": f"audio/{name}", "duration": 1.0, "text": "a"})
        if kind is None:
            check_audio(manifest)
        else:
            with pytest.raises(ValueError, match=rf"line 1: .*{name} is read wrongly by NeMo \(.+\): convert it"):
                check_audio(manifest)


def test_a_manifest_that_wants_more_than_there_is(clips):
    with pytest.raises(UnusableAudio, match=r"has 1\.00 s of audio, but its manifest line ends at 2\.00 s"):
        read_audio(CLIPS["pipe.flac"][0], 0.0, 2.0, SAMPLE_RATE)
    part = read_audio(CLIPS["pipe.flac"][0], 0.25, 0.5, SAMPLE_RATE)
    np.testing.assert_array_equal(part, ONE[4000:12000])
