"""Finds the streams of audio files that libsndfile would read wrongly.

Headers may have wrong lengths, and a file may have several streams, of which libsndfile reads only the first.
"""

from nemo_birq.data.audio.flac import flac_layout
from nemo_birq.data.audio.media import is_media
from nemo_birq.data.audio.mp3 import mp3_layout
from nemo_birq.data.audio.ogg import ogg_layout
from nemo_birq.data.audio.parts import Data, Layout, tag_size
from nemo_birq.data.audio.wav import wav_layout

_FINDERS = {b"fLaC": flac_layout, b"OggS": ogg_layout, b"RIFF": wav_layout}


def find_layout(data: Data) -> Layout:
    """Finds the streams of an encoded file of any format.

    Raises:
        AudioError: a stream without a length in its header cannot be decoded.
    """
    if is_media(bytes(data[:16])):
        return Layout(is_media=True)
    start = tag_size(data, 0)
    finder = _FINDERS.get(bytes(data[start : start + 4]))
    if finder is None and data[start : start + 1] == b"\xff":
        finder = mp3_layout
    return finder(data, start) if finder else Layout()
