"""Pretraining of a .nemo from a configuration and unlabelled audio."""
