"""Makes the synthetic corpus: sentences, speech and the README that describes it."""
