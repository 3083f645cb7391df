"""What a linear classifier reads from a frozen encoder, layer by layer (docs/probing.md)."""
