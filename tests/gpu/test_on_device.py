"""Correctness on a GPU: the same losses, gradients, labels and codes as on a CPU, and trainings in every precision.

    pytest -m gpu tests/gpu

Without a GPU, the device is the CPU, so that these tests run on every machine.
"""

import pytest
import torch
import torch.distributed as dist

from nemo_birq.monitoring.step_flops import step_work
from nemo_birq.utils.device_speed import matrix_product_flops
from tests.helpers import plain_loss
from tests.helpers.ddp_worker import QUIET
from tests.helpers.models import FAST, generator, make_batch, make_model, train

pytestmark = [pytest.mark.integration, pytest.mark.gpu]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Noise is drawn on the device, and other devices draw other noise.
SAME = QUIET | {"birq__masking__noise_std": 0.0, "birq__labels__label_gradient": 0.0}
SECONDS = (2.0, 1.3, 0.7, 1.9)
ACCELERATOR = {"accelerator": "gpu" if DEVICE.type == "cuda" else "cpu", "devices": 1}


@pytest.fixture(autouse=True)
def exact_products():
    """Computes float32 products in float32, because TF32 rounds to ten bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def batch_on(device, seed=0):
    batch = make_batch(SECONDS, seed=seed)
    signal, lengths = batch.signal.to(device), batch.signal_length.to(device)
    return batch._replace(signal=signal, signal_length=lengths, num_samples=batch.signal_length.tolist())


def step_on(device, dtype=None, **changes):
    """Returns losses and the gradient of the parameters after one batch."""
    model = make_model(**SAME | changes).train().to(device)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        losses = model.losses(batch_on(device), model.schedule.full, generator(), observe_labels=False, over_ranks=True)
    losses.loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).cpu()
    return model, losses, gradient


def cosine(left, right):
    return float(torch.nn.functional.cosine_similarity(left.double(), right.double(), dim=0))


CASES = {
    "shared": {},
    "separate": {"birq__loss__head": "separate"},
    "whiten": {"birq__labels__normalization": "whiten"},
    "fastconformer": FAST,
    "two codebooks": {"birq__quantizer__num_books": 2, "decoder__num_decoders": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_a_cpu(case):
    (_, expected, gradient), (_, found, on_device) = (step_on(d, **CASES[case]) for d in (torch.device("cpu"), DEVICE))
    assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-4)
    assert cosine(gradient, on_device) > 0.9999
    assert float(on_device.norm()) == pytest.approx(float(gradient.norm()), rel=1e-3)
    for name in ("anchor", "enhanced", "floor"):
        value, other = getattr(expected.health["found"], name), getattr(found.health["found"], name)
        assert float(other) == pytest.approx(float(value), rel=1e-4), name


def test_labels_and_masked_frames_are_those_of_a_cpu():
    results = []
    for device in (torch.device("cpu"), DEVICE):
        model = make_model(**SAME).to(device).eval()
        batch = batch_on(device)
        labels = model.extract_labels(batch.signal, batch.signal_length)
        _, losses, _ = step_on(device)
        results.append([t.cpu() for t in (labels.anchor, labels.enhanced, losses.terms["anchor_labels"])])
    for expected, found in zip(*results, strict=True):
        assert expected.shape == found.shape
        assert float((expected == found).float().mean()) > 0.99  # a frame between two codes may change


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_gradient(precision):
    if DEVICE.type == "cpu" and precision == torch.float16:
        precision = torch.bfloat16  # the only one that autocast has on a CPU
    (_, exact, gradient), (_, rounded, other) = step_on(DEVICE), step_on(DEVICE, precision)
    assert float(rounded.loss) == pytest.approx(float(exact.loss), rel=0.02)
    assert torch.isfinite(other).all() and cosine(gradient, other) > 0.98
    assert float(other.norm()) == pytest.approx(float(gradient.norm()), rel=0.05)
    same = exact.terms["anchor_labels"] == rounded.terms["anchor_labels"]
    assert float(same.float().mean()) > 0.99  # anchor labels never depend on the precision


@pytest.mark.parametrize("chunk_frames", [7, 10_000])
def test_fused_losses_are_the_plain_ones(chunk_frames):
    model, losses, _ = step_on(DEVICE, birq__loss__chunk_frames=chunk_frames)
    anchor, enhanced = plain_loss.losses(losses.terms)
    full = model.schedule.full
    assert float(losses.loss) == pytest.approx(float(full.anchor * anchor + full.enhanced * enhanced), rel=1e-4)


def test_tracked_codes_follow_the_frames_as_on_a_cpu():
    codebooks = []
    for device in (torch.device("cpu"), DEVICE):
        model = make_model(**SAME, birq__labels__codebook="tracked").train().to(device)
        for seed in range(3):
            batch = batch_on(device, seed)
            model.losses(batch, model.schedule.full, generator(seed), observe_labels=False, over_ranks=True)
        codebooks.append(model.enhanced_labeler.quantizer.codebook.cpu())
        assert 0 <= model.enhanced_labeler.tracking.take_replaced() <= 1
    similar = torch.linalg.vecdot(*codebooks)
    assert float((similar > 0.999).float().mean()) > 0.9  # a frame between two codes moves both


def test_refined_codes_are_fitted_as_on_a_cpu():
    changes = {"birq__anchor__projection": "pca", "birq__anchor__codes": "kmeans", "birq__anchor__fit_steps": 1,
               "birq__anchor__fit_frames": 1000, "birq__loss__enhanced_weight": 0.0}  # fmt: skip
    similarity = []
    for device in (torch.device("cpu"), DEVICE):
        model = make_model(**SAME | changes).train().to(device)
        model.anchor_labeler.fitting.begin_step(0)
        model.losses(batch_on(device), model.schedule.full, generator(), observe_labels=False, over_ranks=True)
        assert model.anchor_labeler.fitting.num_fits == 1
        features, lengths = model.preprocessor(input_signal=batch_on(device).signal, length=batch_on(device).signal_length)
        frames = torch.arange(40, device=device)
        labels = model.anchor_labeler(features, lengths, frames, features.shape[2] // 4)
        similarity.append(len(labels.unique()))
    assert similarity[1] == pytest.approx(similarity[0], abs=4) and similarity[1] > 5


def logged_by_training(folder, precision):
    """Returns the last logged numbers of a short training, and the number of tensors that it has moved."""
    model = make_model(**QUIET, birq__labels__label_gradient=0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, folder, 12, precision=precision, **ACCELERATOR)
    after = model.state_dict()
    return model.monitor.logged["training"], sum(not torch.equal(after[name].cpu(), before[name]) for name in before)


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory):
    return logged_by_training(tmp_path_factory.mktemp("float32"), "32-true")


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_training_in_half_precision_goes_as_one_in_float32(tmp_path, precision, in_float32):
    (exact, moved), (logged, moved_by_half) = in_float32, logged_by_training(tmp_path, precision)
    assert moved_by_half == moved > 50
    for name in ("anchor_loss", "enhanced_loss", "anchor_unigram_entropy"):
        assert logged[name] == pytest.approx(exact[name], rel=0.03), name
    assert 0 < logged["mfu"] < 1 and logged["memory_gb"] > 0 and logged["audio_hours_per_hour"] > 0


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    whole, broken, resumed = (make_model(**SAME, birq__watch__probe_seconds=3.0) for _ in range(3))
    train(whole, tmp_path / "whole", 4, **ACCELERATOR)
    trainer = train(broken, tmp_path / "broken", 2, **ACCELERATOR)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")

    position = iter(range(4))

    def later(batch):
        return make_batch((1.5, 1.2, 0.9, 0.8), seed=2 + max(0, next(position) - 1))  # the first is for the probe

    trainer = train(resumed, tmp_path / "resumed", 4, change=later, ckpt_path=tmp_path / "kept.ckpt", **ACCELERATOR)
    assert trainer.global_step == 4
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name].cpu(), value.cpu(), rtol=2e-3, atol=2e-4, msg=name)


def test_distributed_with_one_rank(tmp_path):
    model = make_model(**SAME)
    try:
        trainer = train(model, tmp_path, 2, strategy="ddp_find_unused_parameters_true", **ACCELERATOR)
        assert dist.is_initialized() and dist.get_backend() == ("nccl" if DEVICE.type == "cuda" else "gloo")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    assert trainer.global_step == 2 and 0 < model.monitor.logged["training"]["anchor_loss"] < 10


def test_nothing_waits_for_the_device_in_a_step_that_is_not_logged():
    """PyTorch raises an error if the host waits for a GPU; tests/unit/test_device_waits.py checks this without one."""
    model = make_model(**SAME, birq__labels__codebook="tracked").train().to(DEVICE)
    log, batch = model.monitor.training_log.to(DEVICE), batch_on(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(number):
        losses = model.losses(batch, model.schedule.full, generator(number), observe_labels=False, over_ranks=True)
        model.monitor.finite.remember(number, batch, losses.loss)
        log.health.update(**losses.health)
        log.count(batch)
        log.count_work(step_work(model, batch, losses))
        losses.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step(0)
    if DEVICE.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        step(1)
    finally:
        if DEVICE.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    log.ceiling = matrix_product_flops(DEVICE, torch.float32)
    assert 0 < log.collect()["mfu"] < 1
