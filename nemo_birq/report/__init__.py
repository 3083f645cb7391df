"""Writes one page with pictures and a table from the folders of runs."""
