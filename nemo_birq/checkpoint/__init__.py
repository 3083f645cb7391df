"""Files of a model: what is packed into a .nemo, and what is read of one before it is opened."""
