"""Helpers without knowledge of speech: ranks, random numbers, precision, files, memory."""
