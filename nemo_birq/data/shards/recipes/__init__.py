"""Kinds of input, each of which finds the segments of audio files that go into the shards."""
