"""Anchor labels, compared with an explicit float64 search and with NeMo's own quantizer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nemo.collections.asr.modules.ssl_modules import RandomProjectionVectorQuantizer

from nemo_birq.labels.anchor import RandomProjectionLabeler, stack_frames
from nemo_birq.labels.quantizer import RandomProjectionQuantizer, checksum, draw_codebook, draw_projection
from tests.helpers.models import generator, make_model

pytestmark = pytest.mark.unit


def make_quantizer(in_dim=40, books=1, codes=64, dim=8, seed=0) -> RandomProjectionQuantizer:
    g = generator(seed)
    return RandomProjectionQuantizer(draw_projection(in_dim, books, dim, g), draw_codebook(books, codes, dim, g))


def search(quantizer: RandomProjectionQuantizer, frame: torch.Tensor) -> tuple[list[int], float]:
    """Returns the nearest codes of one frame by distance in float64, and the margin of the closest decision."""
    labels, margin = [], 1.0
    for projection, codes in zip(quantizer.projection.double(), quantizer.codebook.double(), strict=True):
        vector = torch.tensor([float(frame.double() @ column) for column in projection.T])
        vector = vector / vector.norm()
        distances = torch.stack([(code - vector).norm() for code in codes])
        two = distances.topk(2, largest=False).values
        labels.append(int(distances.argmin()))
        margin = min(margin, float(two[1] - two[0]))
    return labels, margin


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 33), min_size=1, max_size=3),
    subsampling=st.sampled_from([4, 8]),
    padding=st.integers(0, 20),
    books=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_anchor_labels_are_the_nearest_codes(lengths, subsampling, padding, books, seed):
    g = generator(seed)
    features = torch.zeros(len(lengths), 5, max(lengths) + padding)
    for row, length in zip(features, lengths, strict=True):
        row[:, :length] = torch.randn(5, length, generator=g)
    quantizer = make_quantizer(in_dim=5 * subsampling, books=books, seed=seed)
    counts = [-(-length // subsampling) for length in lengths]  # ceil
    frames = torch.arange(-(-features.shape[2] // subsampling)) < torch.tensor(counts).unsqueeze(1)
    labels = RandomProjectionLabeler(quantizer, subsampling)(
        features, torch.tensor(lengths), frames.flatten().nonzero()[:, 0], frames.shape[1]
    )
    row = 0
    for utterance, count in zip(features, counts, strict=True):
        for t in range(count):
            stacked = [
                utterance[:, t * subsampling + i] if t * subsampling + i < utterance.shape[1] else torch.zeros(5)
                for i in range(subsampling)
            ]
            expected, margin = search(quantizer, torch.cat(stacked))
            if margin > 1e-6:  # below it float32 cannot tell
                assert labels[row].tolist() == expected
            row += 1
    assert row == len(labels)


@pytest.mark.parametrize("books", [1, 2])
def test_labels_equal_nemo_quantizer(books):
    ours = make_quantizer(in_dim=20 * 4, books=books, codes=32, dim=8)
    stock = RandomProjectionVectorQuantizer(
        feat_in=20, code_dim=8, num_classes=32, num_books=books, dist_fn="l2", combine_time_steps=4
    )
    stock.proj.weight.data = ours.projection.permute(0, 2, 1).reshape(books * 8, 80).clone()
    stock.codebooks.data = ours.codebook.double()
    features = torch.randn(3, 20, 64, generator=generator(1))
    _, expected = stock(input_signal=features)
    labels = RandomProjectionLabeler(ours, 4)(features, torch.full((3,), 64), torch.arange(3 * 16), 16).view(3, 16, books)
    assert torch.equal(labels, expected)


def test_stacking_has_nemo_layout():
    features = torch.arange(2 * 3 * 8.0).view(2, 3, 8)
    expected = features.transpose(1, 2).reshape(2, 2, 12)
    assert torch.equal(stack_frames(features, 4), expected)


def test_bf16_autocast_changes_no_label():
    model = make_model()
    features = torch.randn(2, 20, 400, generator=generator(2))
    frames = torch.arange(2 * 100)
    lengths = torch.full((2,), 400)
    plain = model.anchor_labeler(features, lengths, frames, 100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model.anchor_labeler.quantizer.scores(stack_frames(features, 4).flatten(0, 1))
        assert scores.dtype == torch.float32
        assert torch.equal(model.anchor_labeler(features, lengths, frames, 100), plain)


def test_half_precision_model_keeps_exact_codes_and_statistics():
    model = make_model()
    quantizer, normalization = model.enhanced_labeler.quantizer, model.enhanced_labeler.normalization
    before = checksum(quantizer.projection, quantizer.codebook)
    model.to(torch.bfloat16)
    assert model.encoder.layers[0].norm_out.weight.dtype == torch.bfloat16
    assert quantizer.codebook.dtype == normalization.running_mean.dtype == torch.float32
    assert checksum(quantizer.projection, quantizer.codebook) == before


def test_codes_are_fixed_seeded_unit_vectors():
    one, same, other = make_quantizer(seed=5), make_quantizer(seed=5), make_quantizer(seed=6)
    assert list(one.parameters()) == [] and one.state_dict() == {}
    assert torch.allclose(one.codebook.norm(dim=-1), torch.ones(1, 64), atol=1e-6)
    assert torch.equal(one.codebook, same.codebook) and torch.equal(one.projection, same.projection)
    assert not torch.equal(one.codebook, other.codebook)


def test_projection_is_xavier_uniform():
    projection = draw_projection(300, 1, 16, generator(0))
    bound = (6 / 316) ** 0.5
    assert projection.abs().max() <= bound
    assert float(projection.var()) == pytest.approx(bound**2 / 3, rel=0.05)


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    make_quantizer(seed=9)
    assert torch.equal(torch.rand(4), expected)
