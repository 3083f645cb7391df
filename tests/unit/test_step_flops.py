"""The closed form of a step's operations equals PyTorch's counter over real steps; utilization from known numbers."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from nemo_birq.losses.bilevel import Weights
from nemo_birq.monitoring.step_flops import StepWork, step_flops, step_work
from nemo_birq.monitoring.training_log import TrainingLog
from nemo_birq.utils.device_speed import matrix_product_flops, training_dtype
from tests.helpers.models import FAST, SAMPLE_RATE, generator, make_batch, make_model
from tests.helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from flop_counting import flop_counter

pytestmark = pytest.mark.unit
LOCAL = {"encoder__self_attention_model": "rel_pos_local_attn", "encoder__att_context_size": [6, 4]}
CAUSAL = {
    "encoder__causal_downsampling": True,
    "encoder__conv_context_size": "causal",
    "encoder__conv_norm_type": "layer_norm",
}
CASES = {
    "paper": {},
    "no label gradient": {"birq__labels__label_gradient": 0.0},
    "two heads": {"birq__loss__head": "separate", "birq__labels__label_gradient": 0.0},
    "two codebooks": {"birq__quantizer__num_books": 2, "decoder__num_decoders": 2},
    "best-rq": {"birq__loss__enhanced_weight": 0.0},
    "tracked": {"birq__labels__codebook": "tracked", "birq__labels__label_gradient": 0.0},
    "fastconformer": FAST,
    "causal": CAUSAL,
    "stacking": {"encoder__subsampling": "stacking"},
    "no subsampling": {"encoder__subsampling": None, "encoder__subsampling_factor": 1},
    "absolute positions": {"encoder__self_attention_model": "abs_pos"},
    "sdpa": {"encoder__use_pytorch_sdpa": True},
    "local": LOCAL,
}
TOLERANCE = {"local": 0.01}  # the mask of local attention is another product, of vectors


def counted_and_closed(model, batch):
    """Returns the FLOP of a step by the counter, and by the closed form with all lengths equal to the padded features."""
    with flop_counter() as counter:
        weights = model.schedule.full
        losses = model.losses(batch, weights, generator(), observe_labels=False, over_ranks=True)
        losses.loss.backward()
    features, _ = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    flops = step_flops(model, np.full(len(batch.signal), features.shape[2]), losses.terms)
    unpadded = batch.signal.shape[1] // 160 + 1  # the preprocessor pads its features after the filter bank
    flops -= 2 * model.preprocessor.featurizer.fb.numel() * len(batch.signal) * (features.shape[2] - unpadded)
    return counter.get_total_flops(), flops


@pytest.mark.parametrize("case", CASES)
def test_closed_form_is_what_a_real_step_multiplies(case):
    model = make_model(**CASES[case]).train()
    for seconds in ((2.0, 1.3, 0.7), (3.1,)):
        counted, closed = counted_and_closed(model, make_batch(seconds))
        assert closed == pytest.approx(counted, rel=TOLERANCE.get(case, 1e-12)), seconds


def test_labels_that_are_only_looked_at_cost_no_backward_pass():
    model = make_model(birq__labels__label_gradient=0.0, birq__loss__head="separate").train()
    with flop_counter() as counter:
        losses = model.losses(make_batch(), Weights(0.0, 1.0), generator(), observe_labels=True, over_ranks=True)
        losses.loss.backward()
    frames = np.full(3, 208)
    assert step_flops(model, frames, losses.terms) == pytest.approx(counter.get_total_flops(), rel=2e-3)


def test_noise_costs_a_second_preprocessor_pass_of_the_mixed_signals():
    model, clean = make_model().train(), make_batch((2.0, 2.0, 2.0))
    clean = clean._replace(num_samples=clean.signal_length.tolist())
    noisy = clean._replace(noisy=clean.signal[[0, 2]] + 0.1, mixed=[0, 2])
    counted, closed = [], []
    for batch in (clean, noisy):
        with flop_counter() as counter:
            losses = model.losses(batch, model.schedule.full, generator(), observe_labels=False, over_ranks=True)
        counted.append(counter.get_total_flops())
        closed.append(step_work(model, batch, losses).flops)
    filters, frames = model.preprocessor.featurizer.fb.numel(), 201  # counted with the frame at the end of the signal
    assert counted[1] - counted[0] == 2 * filters * 2 * frames
    assert closed[1] - closed[0] == 2 * filters * 2 * (frames - 1)


def test_padding_is_counted_apart():
    model, batch = make_model().train(), make_batch((2.0, 1.0))
    batch = batch._replace(num_samples=batch.signal_length.tolist())
    losses = model.losses(batch, model.schedule.full, generator(), observe_labels=False, over_ranks=True)
    work = step_work(model, batch, losses)
    assert (work.frames, work.padded_frames) == (200 + 100, 400)
    full = step_flops(model, np.array([200, 200]), losses.terms)
    assert 0.6 * full < work.flops < 0.85 * full
    unknown = step_work(model, batch._replace(num_samples=None), losses)
    assert unknown.frames == unknown.padded_frames == 400 and unknown.flops == full
    assert step_work(model, batch._replace(ids=[]), losses)[:2] == (0.0, 0)


def test_utilization_is_work_by_time_and_ceiling():
    log = TrainingLog(8, 1, SAMPLE_RATE)
    log.count(make_batch((1.0,)))
    assert "mfu" not in log.collect()  # outside of a training
    log.ceiling = 1e9
    for flops, frames in ((3e9, 60), (1e9, 80)):
        log.count_work(StepWork(flops, frames, 100))
    log.since -= 10
    metrics = log.collect()
    assert metrics["mfu"] == pytest.approx(0.4, rel=0.02) and metrics["padding_share"] == pytest.approx(0.3)
    log.since -= 10
    assert log.collect()["mfu"] == 0.0


def test_ceiling_is_that_of_the_precision():
    dtypes = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "64-true": torch.float64}
    assert {precision: training_dtype(precision) for precision in dtypes} == dtypes
    state = torch.get_rng_state()
    found = matrix_product_flops(torch.device("cpu"), torch.float32)
    assert 1e8 < found < 1e13 and torch.equal(state, torch.get_rng_state())


def test_counter_knows_grouped_convolutions_and_products_in_place():
    inputs = torch.randn(2, 12, 50, requires_grad=True)
    for groups in (1, 3, 12):
        layer = nn.Conv1d(12, 24, 5, groups=groups)
        with flop_counter() as counter:
            layer(inputs).sum().backward()
        assert counter.get_total_flops() == 3 * 2 * layer.weight.numel() * 2 * 46
        with flop_counter() as counter:
            layer(inputs.detach()).sum().backward()
        assert counter.get_total_flops() == 2 * 2 * layer.weight.numel() * 2 * 46
    upward = nn.ConvTranspose1d(12, 24, 5, groups=3)
    with flop_counter() as counter:
        upward(inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * upward.weight.numel() * 2 * 50
    with flop_counter() as counter:
        torch.zeros(3, 4).addmm_(torch.randn(3, 7), torch.randn(7, 4))
    assert counter.get_total_flops() == 2 * 3 * 7 * 4
