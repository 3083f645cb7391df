"""Model files: the artifacts of a .nemo, and the checks of a file before it is opened."""
