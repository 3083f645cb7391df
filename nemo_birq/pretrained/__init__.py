"""The file that a training begins with: which one it is, its architecture, and its weights."""
