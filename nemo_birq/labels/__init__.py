"""Anchor labels, enhanced labels, and those of a frozen teacher."""
