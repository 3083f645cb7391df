"""One reader of audio for the whole package: builder, verification, training and scoring.

file.py          opens, measures and decodes a file or encoded audio
layout.py        the streams of a file: where a header lies about its length, and where several streams follow each other
flac.py, mp3.py, ogg.py, wav.py    how these are found in each format
stream.py        one stream, decoded by libsndfile
channels.py      several channels to one
errors.py        why audio cannot be used, and how it was mended

Nothing here imports NeMo or torch.
"""
