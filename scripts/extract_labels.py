"""Writes anchor or enhanced labels of every utterance, as integers, into a NeMo manifest.

    python scripts/extract_labels.py model.nemo data.json --labels enhanced --out labels.json

The same as ``birq extract-labels``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.extraction.labels_command import extract_labels

if __name__ == "__main__":
    run_script(extract_labels, __file__)
