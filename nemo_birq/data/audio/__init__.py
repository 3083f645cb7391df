"""The reader of audio for the whole package: shard builder, verification, training and scoring.

file.py          opens, measures and decodes a file or encoded audio
layout.py        finds the streams of a file with a wrong length in its header, or with several streams
flac.py, mp3.py, ogg.py, wav.py    find the streams in each format
stream.py        one stream, decoded by libsndfile
media.py         m4a, mp4, webm and the like, decoded by FFmpeg if the extra is installed
suffixes.py      suffixes of audio files
channels.py      mixes channels to mono
errors.py        reasons why audio cannot be used, and repairs

Nothing here imports NeMo or torch.
"""
