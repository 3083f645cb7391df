"""Budget x corpus x method x seed, each run one json file; scripts/experiment.py shows the order."""
