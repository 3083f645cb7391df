"""ABX discriminability of the layers of an encoder (docs/comparing_encoders.md)."""
