"""The encoder's geometry: masks, passes through some of its layers, and the times of its frames."""
