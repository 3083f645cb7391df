"""Linear classifiers on the layers of a frozen encoder (docs/probing.md)."""
