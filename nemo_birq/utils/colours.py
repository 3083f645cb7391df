"""Colours of all pictures. One colour has one meaning, and readers with any kind of colour vision can tell all apart.

The palette is legible on white and on the dark ground of the report (contrast 2.6 or more). For normal vision and for red-,
green- and blue-blind readers, any two of its colours differ by 0.08 or more in OKLab, where 0.02 is just visible; a test
measures both. Lines of runs and methods have markers of their own besides (``MARKERS``).
"""

ANCHOR = BEST_RQ = "#1f6fb5"
"""Anchor labels, and BEST-RQ, which is trained on them alone: blue."""
ENHANCED = BIRQ = "#ef7d00"
"""Enhanced labels, the nearest codes of a layer, and BiRQ, which is trained on them: orange."""
KMEANS = RELABELLED = "#3cb371"
"""Labels of k-means, and offline relabelling, which is trained on them: green."""
UNTRAINED = SCRATCH = "#7f868c"
"""A model that is not trained, and training from scratch: grey."""
TRACKED = "#9900ff"
"""BiRQ with tracked codes: violet."""
FITTED = "#993d7a"
"""BEST-RQ whose anchor labels are fitted to the data: plum."""
FITTED_TRACKED = "#cc7acc"
"""Tracked codes and fitted anchor labels together: pink."""
FIRST_LAYER = "#cc0000"
"""BiRQ with labels of the first layer: red."""
OTHER = "#66623d"
"""Any other method: olive."""
PALETTE = (ANCHOR, ENHANCED, KMEANS, UNTRAINED, TRACKED, FITTED, FITTED_TRACKED, FIRST_LAYER, OTHER)

RUNS = (TRACKED, KMEANS, FIRST_LAYER, UNTRAINED, FITTED_TRACKED, OTHER, FITTED, ENHANCED, ANCHOR)
"""Runs side by side, whose meaning only their names tell: those of the two tasks come last."""
MARKERS = "osD^vPX*h"
"""Markers of runs and methods in the order of their colours."""
