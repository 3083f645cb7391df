"""Exports a pretrained encoder as .nemo, ONNX or TorchScript, or for Hugging Face transformers.

    python scripts/export_encoder.py pretrained.nemo hub/encoder.nemo --license cc-by-4.0 --language en

The same as ``birq export``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.export.command import export

if __name__ == "__main__":
    run_script(export, __file__)
