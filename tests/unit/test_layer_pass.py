"""The label pass equals the full encoder, for each variant of NeMo's Conformer."""

import pytest
import torch
from nemo.collections.asr.modules import ConformerEncoder, ConformerMultiLayerFeatureExtractor
from torch import nn

from nemo_birq.config import resolve_layer
from nemo_birq.modules.layer_pass import encode_to_layer, label_mode
from tests.helpers.models import generator

pytestmark = pytest.mark.unit

SMALL = {
    "feat_in": 20, "n_layers": 4, "d_model": 32, "n_heads": 2, "conv_kernel_size": 5, "subsampling_conv_channels": 8,
    "sync_max_audio_length": False,
}  # fmt: skip
VARIANTS = {
    "conformer": {},
    "fastconformer": {"subsampling": "dw_striding", "subsampling_factor": 8, "conv_kernel_size": 9},
    "abs_pos": {"self_attention_model": "abs_pos", "xscaling": False},
    "local_attention": {"self_attention_model": "rel_pos_local_attn", "att_context_size": [4, 4]},
    "limited_context": {"att_context_size": [[8, 3], [8, 1]], "att_context_style": "chunked_limited"},
    "layer_norm": {"conv_norm_type": "layer_norm"},
    "stochastic_depth": {"stochastic_depth_drop_prob": 0.5},
    "stacking": {"subsampling": "stacking"},
    "no_subsampling": {"subsampling_factor": 1},
    "causal": {"causal_downsampling": True, "conv_context_size": "causal"},
    "sdpa": {"use_pytorch_sdpa": True},
    "tied_biases": {"untie_biases": False},
}


def make_encoder(**variant) -> ConformerEncoder:
    torch.manual_seed(0)
    return ConformerEncoder(**(SMALL | variant)).eval()


def make_input(seed=0):
    return torch.randn(3, 20, 96, generator=generator(seed)), torch.tensor([96, 61, 17])


@pytest.mark.parametrize("layer", [1, 3, 4])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_layer_equals_that_of_the_full_pass(variant, layer):
    encoder = make_encoder(**variant)
    features, lengths = make_input()
    expected, expected_len = ConformerMultiLayerFeatureExtractor(encoder, layer_idx_list=[layer - 1])(
        audio_signal=features, length=lengths
    )
    hidden, hidden_len = encode_to_layer(encoder, features, lengths, layer)
    assert torch.equal(hidden_len, expected_len[0])
    assert torch.equal(hidden.transpose(1, 2), expected[0])


def test_last_layer_equals_encoder_output():
    encoder = make_encoder()
    features, lengths = make_input()
    expected, _ = encoder(audio_signal=features, length=lengths)
    hidden, _ = encode_to_layer(encoder, features, lengths, 4)
    assert torch.equal(hidden.transpose(1, 2), expected)


def test_layers_above_are_not_run():
    encoder = make_encoder()
    for layer in encoder.layers[2:]:
        layer.forward = None  # calling it would raise
    encode_to_layer(encoder, *make_input(), layer=2)


def test_longer_input_than_the_position_table():
    encoder = make_encoder(pos_emb_max_len=16)
    features = torch.randn(1, 20, 4000, generator=generator())
    hidden, _ = encode_to_layer(encoder, features, torch.tensor([4000]), 1)
    assert hidden.shape == (1, 1000, 32) and encoder.max_audio_length == 4000


def test_training_pass_has_no_dropout_unless_asked_for():
    encoder = make_encoder(dropout=0.5, dropout_att=0.5, conv_norm_type="layer_norm", stochastic_depth_drop_prob=0.5)
    inputs = make_input()
    quiet = encode_to_layer(encoder, *inputs, layer=3)[0]
    encoder.train()
    assert torch.equal(encode_to_layer(encoder, *inputs, layer=3)[0], quiet)
    one, two = (encode_to_layer(encoder, *inputs, layer=3, dropout=True)[0] for _ in range(2))
    assert not torch.equal(one, two)
    assert all(module.training for module in encoder.modules())


def test_training_pass_normalizes_with_its_batch_but_leaves_the_statistics():
    encoder = make_encoder(dropout=0.0, dropout_pre_encoder=0.0, dropout_emb=0.0).train()
    inputs = make_input()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    hidden, _ = encode_to_layer(encoder, *inputs, layer=2)
    for name, value in encoder.named_buffers():
        assert torch.equal(value, before[name]), name
    last, _ = encode_to_layer(encoder, *inputs, layer=4)
    full, _ = encoder.train()(audio_signal=inputs[0], length=inputs[1])  # the stock pass: same values, statistics move
    assert torch.equal(last.transpose(1, 2), full)
    moved = [name for name, value in encoder.named_buffers() if not torch.equal(value, before[name])]
    assert any("running_mean" in name for name in moved)
    norm = next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm1d))
    assert norm.track_running_stats and norm.training
    encoder.eval()
    assert not torch.equal(encode_to_layer(encoder, *inputs, layer=2)[0], hidden)  # running statistics in inference


def test_training_pass_with_running_statistics_is_that_of_inference():
    encoder = make_encoder(dropout=0.1).train()
    encoder(audio_signal=make_input()[0], length=make_input()[1])  # statistics that differ from those at the start
    hidden, _ = encode_to_layer(encoder, *make_input(), layer=2, running=True)
    assert all(module.training for module in encoder.modules())
    assert torch.equal(hidden, encode_to_layer(encoder.eval(), *make_input(), layer=2)[0])


def test_mode_is_restored_after_an_error():
    encoder = make_encoder().train()
    with pytest.raises(RuntimeError), label_mode(encoder, dropout=False):
        raise RuntimeError
    assert all(m.training for m in encoder.modules())
    assert all(m.track_running_stats for m in encoder.modules() if isinstance(m, nn.BatchNorm1d))


@pytest.mark.parametrize(
    ("layer", "depth", "number"),
    [(1, 4, 1), (4, 4, 4), (0.7, 10, 7), (0.7, 18, 13), (0.7, 17, 12), (0.7, 4, 3), (1.0, 5, 5)],
)
def test_layer_as_number_or_fraction(layer, depth, number):
    assert resolve_layer(layer, depth) == number


@pytest.mark.parametrize("layer", [0, -1, 5, 0.0, 1.5, 0.05])
def test_layer_outside_the_encoder_is_refused(layer):
    with pytest.raises(ValueError, match=r"labels\.layer=.*1 to 4"):
        resolve_layer(layer, 4)
