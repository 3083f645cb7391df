"""Encoders of NeMo and of Hugging Face transformers, as layers with frame times."""
