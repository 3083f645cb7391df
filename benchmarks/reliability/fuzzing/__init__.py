"""Damages one input file of a real command, and classifies how the command ends (``make fuzz``)."""
