"""Encoders of cache-aware streaming: their labels and contexts in pretraining."""

import pytest

from tests.helpers.models import make_batch, make_model

pytestmark = pytest.mark.unit

STREAMING = {
    "preprocessor__normalize": "NA", "preprocessor__pad_to": 0, "encoder__causal_downsampling": True,
    "encoder__att_context_size": [[8, 3], [8, 1], [8, 0]], "encoder__att_context_style": "chunked_limited",
    "encoder__conv_norm_type": "layer_norm", "encoder__conv_context_size": "causal",
    "birq__anchor__normalization": "per_feature",
}  # fmt: skip


@pytest.mark.parametrize("normalize", ["NA", None, "all_features"])
def test_labeler_normalizes_as_the_preprocessor_would(normalize):
    batch = make_batch()
    normalized = make_model().eval().extract_labels(batch.signal, batch.signal_length).anchor
    changes = {"preprocessor__normalize": normalize, "birq__anchor__normalization": "per_feature"}
    found = make_model(**changes).eval().extract_labels(batch.signal, batch.signal_length).anchor
    # Frames between two codes may fall to the other by rounding.
    assert (found == normalized).double().mean() > 0.99
    without = make_model(preprocessor__normalize=normalize).eval().extract_labels(batch.signal, batch.signal_length).anchor
    assert (without == normalized).double().mean() < 0.6
