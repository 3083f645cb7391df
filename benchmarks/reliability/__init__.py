"""Kills small training runs again and again, and compares where they end with an uninterrupted run (``make storm``)."""
