"""A small model for the tests of benchmarks/."""

SMALL = ("model.encoder.n_layers=2", "model.encoder.d_model=32", "model.birq.quantizer.num_codes=16")
