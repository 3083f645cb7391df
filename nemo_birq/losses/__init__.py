"""The bilevel loss and its fused computation, without statistics of labels."""
