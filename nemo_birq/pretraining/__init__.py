"""Pretraining: from a configuration and unlabelled audio to a .nemo."""
