"""From a pretrained ``.nemo`` to NeMo's own speech recognizers; birq finetune shows the order."""
