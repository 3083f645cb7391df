"""The course of a run over its restarts: what holds when a command is given again and goes on from a checkpoint.

``resuming.py`` is what a command calls before training. It is above ``model``, and serves pretraining and fine-tuning alike.
"""
