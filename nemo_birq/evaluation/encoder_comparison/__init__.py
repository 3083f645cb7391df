"""One table of ABX and probes for several encoders (docs/comparing_encoders.md)."""
