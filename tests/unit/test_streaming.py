"""Encoders of cache-aware streaming: their labels and contexts in pretraining."""

import pytest
import torch
from nemo.collections.asr.modules import ConformerMultiLayerFeatureExtractor

from nemo_birq import BiRQModel
from nemo_birq.evaluation.label_quality.label_sets import collect_frames
from nemo_birq.extraction.labels import compute_labels
from nemo_birq.losses.bilevel import Weights
from nemo_birq.modules.masking import positions, valid_frames
from tests.helpers.models import STREAMING, generator, make_batch, make_model

pytestmark = pytest.mark.unit


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


def contexts_of_passes(model: BiRQModel, monkeypatch: pytest.MonkeyPatch, seed: int) -> list[list[int]]:
    """Returns the attention contexts of the passes of one step through the encoder, in their order."""
    seen, create_masks = [], model.encoder._create_masks

    def remember(att_context_size, **others):
        seen.append(att_context_size)
        return create_masks(att_context_size=att_context_size, **others)

    monkeypatch.setattr(model.encoder, "_create_masks", remember)
    model.losses(make_batch((0.7, 0.5)), Weights(0.7, 1.3), generator(seed), observe_labels=False, over_ranks=True)
    monkeypatch.undo()
    return seen


@pytest.mark.parametrize("kind", ["first", "same", "full"])
def test_each_pass_has_its_context(kind, monkeypatch):
    model = make_model(**STREAMING, birq__labels__context=kind).train()
    sizes = STREAMING["encoder__att_context_size"]
    passes = [contexts_of_passes(model, monkeypatch, seed) for seed in range(20)]
    labels, masked = ([one[i] for one in passes] for i in (0, 1))
    assert all(size in masked for size in sizes) and all(len(one) == 2 for one in passes)
    assert labels == {"first": [sizes[0]] * 20, "same": masked, "full": [[-1, -1]] * 20}[kind]
    # The generator of the step decides, and leaves NeMo's own drawing alone.
    assert [contexts_of_passes(model, monkeypatch, seed) for seed in range(20)] == passes
    assert model.encoder.att_context_size_all == sizes and model.encoder.att_context_size == sizes[0]
    # In evaluation the masked pass has the context of inference.
    assert contexts_of_passes(model.eval(), monkeypatch, 0) == [[-1, -1] if kind == "full" else sizes[0], sizes[0]]


def test_contexts_are_drawn_with_their_probabilities(monkeypatch):
    model = make_model(**STREAMING, encoder__att_context_probs=[0.0, 0.25, 0.75]).train()
    drawn = [contexts_of_passes(model, monkeypatch, seed)[1] for seed in range(40)]
    counts = [drawn.count(size) for size in STREAMING["encoder__att_context_size"]]
    assert counts[0] == 0 and 4 <= counts[1] <= 16 and sum(counts) == 40


@pytest.mark.parametrize("kind", ["first", "same", "full"])
def test_enhanced_labels_of_inference_are_those_of_the_context(kind):
    model, batch = make_model(**STREAMING, birq__labels__context=kind, birq__labels__momentum=0.0).train(), make_batch()
    model.losses(batch, Weights(0.7, 1.3), generator(), observe_labels=False, over_ranks=True)  # gathers statistics
    model.eval()
    made = model.extract_labels(batch.signal, batch.signal_length).enhanced
    written = compute_labels(model, batch, "enhanced")
    collected = collect_frames(model, [batch], lambda _: None)
    features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    found = {}
    for context in ([8, 3], [-1, -1]):
        model.encoder.set_default_att_context_size(context)
        extractor = ConformerMultiLayerFeatureExtractor(model.encoder, layer_idx_list=[model.layer - 1])
        (hidden, _), (lengths_found, _) = extractor(audio_signal=features, length=lengths)
        valid = valid_frames(lengths_found, hidden.shape[2])
        found[context[0]] = model.enhanced_labeler.nearest(hidden.transpose(1, 2), valid, positions(valid))
    expected, other = (found[-1], found[8]) if kind == "full" else (found[8], found[-1])
    assert torch.equal(made[made >= 0], expected[:, 0]) and not torch.equal(expected, other)
    assert torch.equal(torch.cat([torch.from_numpy(one) for one in written]), expected)
    assert torch.equal(torch.from_numpy(collected.enhanced), expected[:, 0])
