"""Export of the encoder as a bare ``.nemo``, ONNX, TorchScript or a folder for transformers, with a model card."""
