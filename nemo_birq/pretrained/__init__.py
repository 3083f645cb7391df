"""The pretrained file from which a training starts: its name, its architecture, and its weights."""
