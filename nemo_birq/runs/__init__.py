"""Runs that are stopped and resumed, in pretraining and fine-tuning; ``resuming.py`` has the call for commands."""
