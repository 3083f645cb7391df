"""Offline relabelling, HuBERT's way: labels from the clusters of an earlier model's layer (docs/relabelling.md)."""
