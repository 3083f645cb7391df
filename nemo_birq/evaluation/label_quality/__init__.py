"""Compares labels with the phones of an alignment (docs/label_quality.md)."""
