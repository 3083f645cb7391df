"""Writes the outputs of encoder layers for every utterance of a manifest or of tar shards.

    python scripts/extract_features.py model.nemo data.json --layers 4,7 --out features

The same as ``birq extract-features``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.extraction.features_command import extract_features

if __name__ == "__main__":
    run_script(extract_features, __file__)
