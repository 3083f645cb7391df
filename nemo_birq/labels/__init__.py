"""Anchor labels, enhanced labels, and labels of a frozen teacher."""
