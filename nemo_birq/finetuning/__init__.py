"""From a pretrained ``.nemo`` to NeMo's own speech recognizers; scripts/speech_to_text_finetune.py shows the order."""
