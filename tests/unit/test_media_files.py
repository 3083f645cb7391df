"""Audio of containers that libsndfile does not read: PyAV reads it, or the message names the extra to install."""

import io
import sys

import numpy as np
import pytest

from nemo_birq.data.audio.errors import AudioError
from nemo_birq.data.audio.file import measure, open_audio
from nemo_birq.data.audio.suffixes import MEDIA_SUFFIXES, SUFFIXES
from nemo_birq.data.dataset import read_audio
from nemo_birq.data.shards.recipes.manifest import ManifestRecipe
from tests.helpers.shards import lines, make, members, noise, write, write_lines

pytestmark = pytest.mark.unit

HEADS = {
    "m4a": b"\0\0\0\x1cftypM4A \0\0\0\0",
    "webm": b"\x1aE\xdf\xa3" + bytes(12),
    "wma": b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\0\xaa\0b\xcel",
    "aac": b"\xff\xf1\x60\x40" + bytes(12),
    "amr": b"#!AMR\n" + bytes(10),
    "avi": b"RIFF\0\0\0\0AVI LIST",
}


def tone(rate: int, seconds: float = 4.0) -> np.ndarray:
    """Makes a tone of rising frequency and level, so that all moments differ, (samples,) float32."""
    time = np.arange(int(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 + 100 * time) * time) * (1 + 0.5 * np.sin(7 * time))).astype(np.float32)


def encoded(av, signal: np.ndarray, rate: int, container: str, codec: str, layout: str = "mono") -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.layout = layout
        channels = len(stream.layout.channels)
        frame = av.AudioFrame.from_ndarray(np.repeat(signal[None], channels, axis=0), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        fifo = av.AudioFifo()
        fifo.write(frame)
        size = stream.codec_context.frame_size or 1024
        while part := fifo.read(size) or fifo.read(size, partial=True):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", HEADS)
def test_without_pyav_the_message_says_how(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "av", None)
    write(tmp_path / "ok.wav", noise(1.0))
    (tmp_path / f"a.{kind}").write_bytes(HEADS[kind] + bytes(2000))
    for source in (HEADS[kind] + bytes(2000), str(tmp_path / f"a.{kind}")):
        with pytest.raises(AudioError, match=r"pip install 'nemo_birq\[ffmpeg\]'.*ffmpeg -i"):
            measure(source)
    manifest = write_lines(
        tmp_path / "a.json", *({"audio_filepath": name, "duration": 1.0} for name in ("ok.wav", f"a.{kind}"))
    )
    (skipped,) = make(ManifestRecipe([manifest]), tmp_path / "out", max_skipped_share=0.5)["skipped"]
    assert skipped["name"] == f"a.{kind}" and "nemo_birq[ffmpeg]" in skipped["reason"]


@pytest.mark.parametrize(
    ("container", "codec", "rate", "layout", "delay"),
    [
        ("mp4", "alac", 16000, "mono", 0),
        ("mp4", "aac", 44100, "stereo", 1024),  # padding of the encoder before the signal; PyAV writes no edit list
        ("webm", "libopus", 48000, "mono", 0),
        ("matroska", "aac", 16000, "mono", 0),
        ("adts", "aac", 16000, "mono", 1024),
    ],
)
def test_with_pyav_any_part_is_read(tmp_path, container, codec, rate, layout, delay):
    av = pytest.importorskip("av")
    signal = tone(rate)
    data = encoded(av, signal, rate, container, codec, layout)
    (tmp_path / "x.m4a").write_bytes(data)
    assert SUFFIXES >= MEDIA_SUFFIXES
    for source in (data, str(tmp_path / "x.m4a")):
        with open_audio(source) as audio:
            header = audio.header
            assert header.sample_rate == rate and header.channels == (2 if layout == "stereo" else 1)
            assert 0 <= header.frames - len(signal) - delay <= 4096
            whole = audio.decode_mono(0, header.frames)
            assert len(whole) == header.frames
            middle = slice(rate, 3 * rate)
            assert np.abs(whole[delay:][middle] - signal[middle]).mean() < 0.01
            for first in (2 * rate, rate // 2):  # WebM tells times in milliseconds only
                part = audio.decode_mono(first, rate)
                lags = [np.abs(whole[first + lag :][: len(part)] - part).mean() for lag in range(-48, 49)]
                assert len(part) == rate and min(lags) < 1e-3
        assert len(read_audio(source, 0.0, header.seconds, 16000)) == pytest.approx(header.seconds * 16000, abs=1)
    with pytest.raises(AudioError):
        measure(data[:300])


def test_with_pyav_shards_are_built(tmp_path):
    av = pytest.importorskip("av")
    (tmp_path / "in").mkdir()
    signal = tone(16000)
    (tmp_path / "in" / "a.m4a").write_bytes(encoded(av, signal, 16000, "mp4", "alac"))
    manifest = write_lines(tmp_path / "a.json", {"audio_filepath": "in/a.m4a", "duration": 4.0})
    card = make(ManifestRecipe([manifest]), tmp_path / "out", max_duration=1.5)
    assert card["utterances"] == 3 == len(lines(tmp_path / "out")) and card["remedies"] == {}
    found = members(tmp_path / "out")
    joined = np.concatenate([found[name] for name in sorted(found)]) / 32768
    np.testing.assert_allclose(joined, signal, atol=1 / 32768)
