"""Extraction of features and labels of whole utterances to disk (docs/extraction.md)."""
