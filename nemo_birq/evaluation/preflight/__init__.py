"""Checks labels before training."""
