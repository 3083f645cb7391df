"""Speech with phone times from espeak-ng, through the C API of libespeak-ng.

The library reports an event at the onset of every phoneme, on the time axis of the samples that it returns (22 050 Hz).
`phone_segments` accounts for two properties of these times: the silence before a stop's burst (its closure) comes *before*
the stop's event, and a pause is a run of zero samples.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

SILENCE = "SIL"

#: espeak-ng's English mnemonics, stress marks removed, to ARPAbet. The labels follow lexical sets, so that a word has
#: nearly the same labels in every accent: LOT and START are AA, NORTH and FORCE are AO, lettER is AX.
ARPABET: dict[str, str] = {
    # consonants
    "p": "P", "b": "B", "t": "T", "t#": "T", "t[": "T", "d": "D", "k": "K", "g": "G", "tS": "CH", "dZ": "JH",
    "f": "F", "v": "V", "T": "TH", "D": "DH", "s": "S", "z": "Z", "S": "SH", "Z": "ZH", "h": "HH",
    "m": "M", "n": "N", "N": "NG", "l": "L", "@L": "L", "r": "R", "r-": "R", "w": "W", "w#": "W", "j": "Y",
    # vowels
    "i:": "IY", "i": "IY", "I": "IH", "I2": "IH", "I#": "IH", "i@3": "IH", "eI": "EY", "E": "EH", "e@": "EH",
    "a": "AE", "0": "AA", "A:": "AA", "A@": "AA", "O:": "AO", "O2": "AO", "O@": "AO", "o@": "AO", "oU": "OW",
    "U": "UH", "U@": "UH", "u:": "UW", "V": "AH", "3:": "ER", "VR": "ER", "IR": "ER",
    "@": "AX", "@2": "AX", "3": "AX", "a#": "AX", "aI": "AY", "aI2": "AY", "aI@": "AY", "aU": "AW", "OI": "OY",
    # the glide between two vowels ("the orange"), pauses
    "_": SILENCE, "_:": SILENCE, "_!": SILENCE, "_|": SILENCE, ";": "Y",
}  # fmt: skip

PHONES: tuple[str, ...] = tuple(sorted(set(ARPABET.values())))
STOPS = frozenset({"P", "B", "T", "D", "K", "G", "CH", "JH"})

#: A shorter pause between two words, in seconds, belongs to the phone before it.
MIN_PAUSE = 0.030
#: Largest magnitude of a sample, on the 16-bit scale, that counts as silence.
ZERO = 2

_MISSING = """libespeak-ng was not found. Install it with your system's package manager:
  Debian, Ubuntu:  apt-get install libespeak-ng1
  Fedora:          dnf install espeak-ng
  macOS:           brew install espeak-ng   (then DYLD_FALLBACK_LIBRARY_PATH=$(brew --prefix)/lib)"""

# The values below are those of speak_lib.h, the C header.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_DONT_EXIT = 0x8000
_RATE, _VOLUME, _PITCH = 1, 2, 3
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_EVENT_LIST_TERMINATED = 0
_EVENT_PHONEME = 7


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds from the start of the utterance
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class EspeakError(RuntimeError):
    """espeak-ng is missing, or refused a request."""


class Onset(NamedTuple):
    """A phoneme's mnemonic, without stress marks, and the time in seconds at which it starts."""

    mnemonic: str
    time: float


class Segment(NamedTuple):
    """A phone and its time span, in seconds."""

    start: float
    end: float
    phone: str


class Synthesizer:
    """Synthesizes one utterance at a time with espeak-ng. The library has global state, so make one object per process."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise EspeakError(_MISSING)
        self._library = ctypes.CDLL(name)
        options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_DONT_EXIT
        self.sample_rate: int = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, None, options)
        if self.sample_rate <= 0:
            raise EspeakError("libespeak-ng found no voice data: install the package espeak-ng-data")
        self._library.espeak_Info.restype = ctypes.c_char_p
        data = ctypes.c_char_p()
        self.version = self._library.espeak_Info(ctypes.byref(data)).decode().split()[0]
        self._variants = Path((data.value or b"").decode()) / "voices" / "!v"
        self._audio: list[np.ndarray] = []
        self._onsets: list[Onset] = []
        # The library keeps a bare pointer, so this reference keeps the callback alive.
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: ctypes._Pointer, count: int, events: ctypes._Pointer) -> int:
        if samples and count > 0:
            self._audio.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_LIST_TERMINATED:
            event = events[index]
            if event.type == _EVENT_PHONEME:
                mnemonic = event.id.string.decode().strip("',%=|")
                self._onsets.append(Onset(mnemonic, event.audio_position / 1000))
            index += 1
        return 0

    def check_voice(self, voice: str) -> None:
        """Raises an EspeakError unless this installation has the voice, written "accent+variant"."""
        accent, _, variant = voice.partition("+")
        # espeak-ng ignores an unknown variant without an error, so two speakers would sound the same.
        known = not variant or (self._variants / variant).is_file()
        if not known or self._library.espeak_SetVoiceByName(accent.encode()) != 0:
            raise EspeakError(f"espeak-ng {self.version} has no voice {voice}; this corpus was designed with 1.51")

    def speak(self, text: str, voice: str, speed: int, pitch: int) -> tuple[np.ndarray, list[Onset]]:
        """Synthesizes a sentence.

        Args:
            text: words.
            voice: "accent+variant", such as "en-gb+f1".
            speed: words a minute (80 to 450).
            pitch: 0 to 100; 50 is the voice's own.

        Returns:
            Samples at `sample_rate`, (samples,) int16, and the onsets of the phonemes in order.

        Raises:
            EspeakError: espeak-ng lacks the voice or cannot speak the text.
        """
        self._audio.clear()
        self._onsets.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakError(f"espeak-ng has no voice {voice}")
        # Half of the usual volume, at which some voices would clip.
        for parameter, value in ((_RATE, speed), (_PITCH, pitch), (_VOLUME, 50)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        size = ctypes.c_size_t(len(data) + 1)
        if self._library.espeak_Synth(data, size, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None) != 0:
            raise EspeakError(f"espeak-ng could not speak {text!r}")
        return np.concatenate(self._audio), list(self._onsets)


def phone_segments(audio: np.ndarray, sample_rate: int, onsets: list[Onset]) -> list[Segment]:
    """Turns phoneme onsets into phones that follow each other without a gap, from 0 to the end of the audio.

    The silent end of a phone becomes the closure of a stop that follows it. Before any other phone, it becomes a separate
    silence if it is long enough. (The library assigns both to the phone before.)

    Args:
        audio: (samples,) int16, as synthesized; the voice must have no echo.
        sample_rate: sample rate in Hz.
        onsets: the phonemes in order of time.

    Raises:
        KeyError: a mnemonic is not in `ARPABET`.
    """
    sounding = np.flatnonzero(np.abs(audio.astype(np.int32)) > ZERO)
    starts = [(0.0, SILENCE)] + [(onset.time, ARPABET[onset.mnemonic]) for onset in onsets]
    starts.append((len(audio) / sample_rate, SILENCE))

    moved = [starts[0]]
    for (start, phone), (end, following) in pairwise(starts):
        last = np.searchsorted(sounding, end * sample_rate) - 1
        quiet_from = (sounding[last] + 1) / sample_rate if last >= 0 else 0.0
        quiet_from = min(max(start, quiet_from), end)
        if phone != SILENCE and following in STOPS:
            end = quiet_from
        elif phone != SILENCE and (following == SILENCE or end - quiet_from >= MIN_PAUSE):
            moved.append((quiet_from, SILENCE))
        if not moved[-1][1] == following == SILENCE:
            moved.append((end, following))

    ends = [start for start, _ in moved[1:]] + [len(audio) / sample_rate]
    segments = [Segment(start, end, phone) for (start, phone), end in zip(moved, ends, strict=True)]
    return [segment for segment in segments if segment.end > segment.start]
