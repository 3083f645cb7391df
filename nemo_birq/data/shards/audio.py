"""Decoding, conversion and encoding of one piece of audio."""

import io

import numpy as np
import soundfile
import soxr

from nemo_birq.data.audio.channels import mix
from nemo_birq.data.audio.errors import AudioError, Remedy
from nemo_birq.data.audio.file import Decoded, open_audio
from nemo_birq.data.audio.ogg import with_serial
from nemo_birq.data.manifests import TOLERANCE
from nemo_birq.data.shards.cut import Piece

CODECS = ("flac", "opus", "wav")
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
FULL_SCALE = 32767 / 32768  # largest sample of 16 bits, as soundfile returns it


def decode(piece: Piece, recording: str | AudioError) -> Decoded:
    """Reads a piece of a file.

    Args:
        piece: piece to read.
        recording: path of the local file, or the reason why there is none; see ``recordings.local_recordings``.

    Raises:
        AudioError: the piece cannot be decoded, is shorter than its header says, or has samples that are not audio.
    """
    if isinstance(recording, AudioError):
        raise recording
    with open_audio(recording) as audio:
        decoded = audio.decode(piece.start, piece.frames, piece.channels)
    frames, rate = len(decoded.signal), decoded.sample_rate
    if frames < piece.frames - TOLERANCE * rate or not frames:
        raise AudioError("truncated", f"{frames / rate:.2f} s of {piece.seconds:.2f} s can be decoded")
    return decoded


def clipped_samples(decoded: Decoded) -> int:
    """Counts the samples at full scale."""
    return int((np.abs(decoded.signal) >= FULL_SCALE).sum())


def to_mono(decoded: Decoded, sample_rate: int) -> tuple[np.ndarray, tuple[Remedy, ...]]:
    """Mixes all channels and resamples; returns (samples,) float32, and the repairs so far."""
    mono, cancelled = mix(decoded.signal)
    remedies = decoded.remedies + ((cancelled,) if cancelled else ())
    return mono if decoded.sample_rate == sample_rate else soxr.resample(mono, decoded.sample_rate, sample_rate), remedies


def encode(signal: np.ndarray, sample_rate: int, codec: str, serial: int) -> bytes:
    """Encodes an audio file; the same signal and serial number give the same bytes.

    Args:
        signal: (samples,) float32, full scale 1.
        sample_rate: sample rate in Hz.
        codec: flac or wav, with 16 bits, or opus in Ogg.
        serial: serial number of the Ogg stream.
    """
    buffer = io.BytesIO()
    if codec == "opus":
        soundfile.write(buffer, signal, sample_rate, format="OGG", subtype="OPUS")
        return with_serial(buffer.getvalue(), serial)
    # libsndfile would multiply by 32767, but divides by 32768 when it reads, which would change samples of 16 bits.
    samples = np.clip(np.rint(signal * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(buffer, samples, sample_rate, format=codec.upper(), subtype="PCM_16")
    return buffer.getvalue()
