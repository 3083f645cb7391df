"""The objective: closed forms, NeMo's own loss, finite differences."""

import math

import pytest
import torch
from nemo.collections.asr.losses.ssl_losses.mlm import MultiMLMLoss
from nemo.collections.asr.models import EncDecMaskedTokenPredModel
from nemo.collections.asr.modules import MultiSoftmaxDecoder

from nemo_birq.losses.bilevel import BilevelLoss, Weights, WeightSchedule
from tests.helpers.models import generator, make_batch, make_config, make_model

pytestmark = pytest.mark.unit


def stock_model(model, mask_value=0.3):
    """NeMo's own BEST-RQ with the weights, projection and codebook of ours."""
    cfg = make_config()
    cfg.decoder.squeeze_single = True
    module = "nemo.collections.asr.modules"
    cfg.merge_with(
        {
            "num_books": 1,
            "squeeze_single": True,
            "mask_position": "pre_conv",
            "spec_augment": {"_target_": f"{module}.SpectrogramAugmentation", "freq_masks": 0, "time_masks": 0},
            "quantizer": {
                "_target_": f"{module}.ssl_modules.RandomProjectionVectorQuantizer", "feat_in": 20, "code_dim": 8,
                "num_classes": 24, "num_books": 1, "dist_fn": "l2", "squeeze_single": True, "combine_time_steps": 4,
            },
            "masking": {
                "_target_": f"{module}.ssl_modules.RandomBlockMasking", "feat_in": 20, "mask_prob": 0.03,
                "block_size": 12, "mask_value": mask_value, "allow_overlap": True,
            },
            "loss": {
                "_target_": "nemo.collections.asr.losses.ssl_losses.mlm.MultiMLMLoss", "combine_time_steps": 4,
                "mask_threshold": 0.8, "num_decoders": 1, "squeeze_single": True,
            },
        }
    )  # fmt: skip
    stock = EncDecMaskedTokenPredModel(cfg)
    stock.encoder.load_state_dict(model.encoder.state_dict())
    stock.decoder.load_state_dict(model.decoder_losses["anchor"]["decoder"].state_dict())
    quantizer = model.anchor_labeler.quantizer
    stock.quantizer.proj.weight.data = quantizer.projection[0].T.clone()
    stock.quantizer.codebooks.data = quantizer.codebook.double()
    return stock


def test_without_enhanced_labels_the_loss_is_nemos(monkeypatch, batch):
    model = make_model(birq__loss__enhanced_weight=0.0, birq__loss__anchor_weight=1.0).eval()
    stock = stock_model(model).eval()
    drawn = []
    stock.mask_processor.register_forward_hook(lambda module, args, output: drawn.append(output))
    log_probs, encoded_len, masks, tokens = stock(
        input_signal=batch.signal, input_signal_length=batch.signal_length, apply_mask=True
    )
    expected = stock.loss(masks=masks, decoder_outputs=log_probs, targets=tokens, decoder_lengths=encoded_len)
    masked_features, masks = drawn[0]
    assert masks[:, 0].any()
    monkeypatch.setattr(model.masking, "draw", lambda *_: masks[:, 0].bool())
    monkeypatch.setattr(model.masking, "fill", lambda *_: masked_features)
    loss, _, _ = model.losses(batch, Weights(0.0, 1.0), generator(), observe_labels=False, over_ranks=False)
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_books_are_averaged_as_in_nemo():
    torch.manual_seed(0)
    head = MultiSoftmaxDecoder(feat_in=8, num_classes=5, num_decoders=3, use_bias=True)
    encoded = torch.randn(2, 8, 6, generator=generator(4))
    labels = torch.randint(5, (2, 6, 3), generator=generator(5))
    masks = (torch.rand(2, 1, 24, generator=generator(6)) < 0.9).float().expand(2, 4, 24)
    stock = MultiMLMLoss(combine_time_steps=4, num_decoders=3)
    expected = stock(masks=masks, decoder_outputs=head(encoder_output=encoded), targets=labels)
    frames = masks[:, 0].reshape(2, 6, 4).mean(-1) > 0.8
    hidden = encoded.transpose(1, 2)[frames]
    loss, _ = BilevelLoss()(hidden=hidden, anchor_labels=labels[frames], anchor_head=head, enhanced_head=head)
    torch.testing.assert_close(loss, expected)


# --- gradients in float64 ---------------------------------------------------------------------------------------------


def mask_of(model, features, lengths, seed=5):
    return model.masking.draw(lengths, features.shape[2], generator(seed))


def double_model(**changes):
    """In inference mode, the statistics of the normalization are constants, so that differences correspond to gradients."""
    model = make_model(birq__loss__anchor_weight=0.0, birq__labels__logit_scale=4.0, **changes)
    model.train()
    features, lengths = model.preprocessor(input_signal=make_batch().signal, length=make_batch().signal_length)
    # Fills the running statistics.
    model.losses_of_features(features, lengths, mask_of(model, features, lengths), Weights(1.0, 0.0), generator())
    return model.eval().double(), features.double(), lengths


def upper_loss(model, features, lengths):
    mask = mask_of(model, features, lengths)
    return model.losses_of_features(features, lengths, mask, Weights(1.0, 0.0), generator(5), over_ranks=False).loss


def directional(model, function, parameters, directions, step=1e-7):  # smaller than the distance to a kink of a ReLU
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * step * direction
            values.append(float(function()))
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter -= sign * step * direction
    return (values[0] - values[1]) / (2 * step)


def pick(model, part):
    return [parameter for name, parameter in model.named_parameters() if name.startswith(part)]


PARTS = ["encoder.pre_encode", "encoder.layers.0", "encoder.layers.1", "encoder.layers.2", "decoder_losses"]


@pytest.mark.parametrize("kind", ["per_feature", "whiten", "layer_norm"])
def test_gradient_through_prediction_and_labels_is_exact(kind):
    model, features, lengths = double_model(birq__labels__normalization=kind)
    upper_loss(model, features, lengths).backward()
    for part in PARTS:
        parameters = pick(model, part)
        directions = [torch.randn(p.shape, dtype=torch.float64, generator=generator(i)) for i, p in enumerate(parameters)]
        analytic = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True))
        numeric = directional(model, lambda: upper_loss(model, features, lengths), parameters, directions)
        assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-7), part


def gradients(model, features, lengths, label_gradient):
    model.zero_grad()
    model.enhanced_labeler.label_gradient = label_gradient
    upper_loss(model, features, lengths).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


NO_PATH = 1e-15  # label_gradient: the labels are picked, and what flows through them is below float64's precision


def test_switching_the_label_gradient_off_removes_exactly_the_label_path(monkeypatch):
    model, features, lengths = double_model()
    full, picked, none = (gradients(model, features, lengths, share) for share in (1.0, NO_PATH, 0.0))
    fixed = []
    forward = type(model.enhanced_labeler).forward

    def remember(labeler, *args, **options):
        fixed.append(forward(labeler, *args, **options))
        return fixed[0] if len(fixed) > 1 else fixed[-1]

    # Without the label path: the labels stay those of the first call while the parameters move.
    monkeypatch.setattr(type(model.enhanced_labeler), "forward", remember)
    model.enhanced_labeler.label_gradient = 0.0
    upper_loss(model, features, lengths)
    for part in PARTS:
        parameters = pick(model, part)
        names = [name for name, _ in model.named_parameters() if name.startswith(part)]
        directions = [torch.randn(p.shape, dtype=torch.float64, generator=generator(i)) for i, p in enumerate(parameters)]
        numeric = directional(model, lambda: upper_loss(model, features, lengths), parameters, directions)
        analytic = sum(float((none[n] * d).sum()) for n, d in zip(names, directions, strict=True))
        assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-7), part
    # With picked labels, the label path is the rest: it ends at layer k = 2 and never touches head or codebook.
    for part in PARTS:
        above = part in ("encoder.layers.2", "decoder_losses")
        same = [torch.allclose(full[n], picked[n], atol=1e-12) for n in full if n.startswith(part)]
        assert all(same) if above else not all(same), part


def test_half_a_label_gradient_is_half_the_label_path():
    model, features, lengths = double_model()
    full, none, half = (gradients(model, features, lengths, share) for share in (1.0, NO_PATH, 0.5))
    for name in full:
        torch.testing.assert_close(half[name], (full[name] + none[name]) / 2)


# --- edges ------------------------------------------------------------------------------------------------------------


def test_no_masked_frame_gives_zero_with_a_graph(monkeypatch, batch):
    model = make_model().train()
    monkeypatch.setattr(model.masking, "draw", lambda lengths, frames, _: torch.zeros(len(lengths), frames).bool())
    loss, health, _ = model.losses(batch, Weights(0.7, 1.3), generator(), observe_labels=False, over_ranks=True)
    loss.backward()
    assert float(loss) == 0.0 and len(health["anchor_labels"]) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert model.encoder.layers[0].feed_forward1.linear1.weight.grad is not None


def test_initial_anchor_loss_is_near_ln_v():
    model = make_model(birq__quantizer__num_codes=512, decoder__num_classes=512, birq__masking__start_probability=0.1)
    batch = make_batch((4.0,) * 8)
    _, health, _ = model.eval().losses(batch, Weights(0.0, 1.0), generator(), observe_labels=False, over_ranks=False)
    assert float(health["found"].anchor) / len(health["anchor_labels"]) == pytest.approx(math.log(512), rel=0.05)


def test_label_pass_is_not_run_without_weight(monkeypatch, batch):
    model = make_model().train()
    monkeypatch.setattr("nemo_birq.model.encode_to_layer", None)  # calling it would raise
    losses = model.losses(batch, Weights(0.0, 1.0), generator(), observe_labels=False, over_ranks=True)
    assert losses.health["found"].picked is None


def test_fixed_tensors_do_not_change_in_training(batch):
    model = make_model().train()
    before = {k: v.clone() for k, v in model.named_buffers() if k.endswith(("projection", "codebook"))}
    assert len(before) == 3  # the codebook is shared
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for step in range(3):
        optimizer.zero_grad()
        model.losses(batch, Weights(0.7, 1.3), generator(step), observe_labels=False, over_ranks=True).loss.backward()
        optimizer.step()
    after = dict(model.named_buffers())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_schedule_of_the_weights():
    schedule = WeightSchedule(0.8, 2.0, start_step=10, ramp_steps=3)
    assert [round(schedule.at(step).enhanced, 6) for step in (0, 9, 10, 11, 12, 13, 500)] == [0, 0, 0.2, 0.4, 0.6, 0.8, 0.8]
    assert {schedule.at(step).anchor for step in range(20)} == {2.0}
    assert WeightSchedule(0.1, 2.4, 0, 0).at(0) == Weights(0.1, 2.4)
