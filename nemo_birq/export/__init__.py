"""Export of the encoder: a bare ``.nemo``, ONNX, TorchScript or a folder for transformers, with a card that describes it."""
