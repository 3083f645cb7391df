"""Kills small training runs repeatedly, and compares their results with those of an uninterrupted run (``make storm``)."""
