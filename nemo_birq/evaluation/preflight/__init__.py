"""The check of the labels before training."""
