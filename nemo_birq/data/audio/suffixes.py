"""Suffixes of the audio files that are read here."""

from importlib.util import find_spec

import soundfile

MEDIA_SUFFIXES = frozenset(
    (".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".aac", ".webm", ".mkv", ".mka", ".wma",
     ".wmv", ".asf", ".amr", ".3gp", ".3g2", ".ac3", ".eac3", ".flv", ".avi")
)  # fmt: skip
"""Suffixes of containers and codecs that FFmpeg reads and libsndfile does not."""
MEDIA_REMEDY = "pip install 'nemo_birq[ffmpeg]' to read it, or convert it first, for example: ffmpeg -i a.m4a a.flac"

# Raw samples have no header, so their format is unknown.
SUFFIXES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) - {".raw"} | {
    ".opus",
    ".oga",
    ".aif",
    ".aifc",
    ".sph",
}
if find_spec("av") is not None:
    SUFFIXES |= MEDIA_SUFFIXES
