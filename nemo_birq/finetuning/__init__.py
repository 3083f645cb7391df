"""Fine-tuning of a pretrained ``.nemo`` to speech recognizers of NeMo's classes."""
