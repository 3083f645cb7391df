"""Decoding and scoring of speech recognizers."""
