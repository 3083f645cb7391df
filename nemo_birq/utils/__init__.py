"""Helpers that do not depend on speech: ranks, random numbers, precision, files, memory."""
