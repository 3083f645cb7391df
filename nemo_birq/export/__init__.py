"""What leaves this project: the bare encoder as ``.nemo``, ONNX or TorchScript, and the card that says what it is."""
