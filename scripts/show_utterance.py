"""Draws the spectrogram, mask, labels and predictions of one utterance.

    python scripts/show_utterance.py model.nemo validation.json --utterance spk024-validation-00001

The same as ``birq show-utterance``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.evaluation.label_quality.utterance_command import show_utterance

if __name__ == "__main__":
    run_script(show_utterance, __file__)
