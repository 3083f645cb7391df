"""Kinds of input: each finds the segments of audio files that go into the shards."""
