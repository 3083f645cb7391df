"""Comparison of pretraining methods: budget x corpus x method x seed, one json file for each run."""
