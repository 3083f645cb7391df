"""Features and labels of whole utterances, written to disk (docs/extraction.md)."""
