"""Evaluation of labels and encoders: label quality against phones, probes of frozen layers, the check before training."""
