"""The bilevel loss and its fused computation. Losses know no statistics."""
