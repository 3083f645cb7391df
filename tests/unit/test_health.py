"""Measurements during a run: gradients, churn, code use; measuring does not change the training."""

import json
import math
import traceback

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.labels.statistics import CodeUse, normalized
from nemo_birq.losses.bilevel import Weights
from nemo_birq.losses.fused_cross_entropy import CrossEntropies
from nemo_birq.monitoring.finite_check import MAX_PENDING_STEPS, FiniteCheck, NonFiniteError, check_weights
from nemo_birq.monitoring.gradient_health import gradient_products, split_loss
from nemo_birq.monitoring.label_churn import Churn, LabelProbe, evaluating
from nemo_birq.monitoring.label_health import LabelHealth
from nemo_birq.monitoring.training_log import TrainingLog, is_silent
from tests.helpers import plain_loss
from tests.helpers.models import SAMPLE_RATE, generator, make_batch, make_model, train

pytestmark = pytest.mark.unit
W1, W2 = 0.7, 1.3


def flat_gradient(loss, parameters):
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found]).double()


@pytest.mark.parametrize("head", ["shared", "separate"])
def test_gradients_of_tasks_and_paths_against_float64(batch, head):
    """The reference is the plain loss with labels or predictions held constant, in float64."""
    model = make_model(birq__loss__head=head).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    model.double()
    mask = model.masking.draw(lengths, features.shape[2], generator())
    losses = model.losses_of_features(features.double(), lengths, mask, Weights(W1, W2), generator())
    found = gradient_products(split_loss(model.bilevel_loss, losses.terms), model.encoder.parameters()).metrics()

    parameters = list(model.encoder.parameters())
    plain = plain_loss.losses(losses.terms)
    assert plain[0].dtype == torch.float64
    g, f = flat_gradient(W2 * plain[0], parameters), flat_gradient(W1 * plain[1], parameters)
    f_prediction = flat_gradient(W1 * plain_loss.losses(losses.terms, of_labels=torch.detach)[1], parameters)
    f_label = flat_gradient(W1 * plain_loss.losses(losses.terms, of_prediction=torch.detach)[1], parameters)
    torch.testing.assert_close(f, f_prediction + f_label)
    assert found == pytest.approx(
        {
            "gradient_norm_anchor": float(g.norm()),
            "gradient_norm_enhanced_prediction": float(f_prediction.norm()),
            "gradient_norm_enhanced_label": float(f_label.norm()),
            "gradient_norm_enhanced": float(f.norm()),
            "gradient_cosine": float(g @ f / g.norm() / f.norm()),
        },
        rel=1e-9,
    )
    assert f_label.norm() > 0.01 * f.norm()  # the path is there to be measured


@pytest.mark.parametrize(
    ("weights", "changes", "names"),
    [
        (Weights(0.0, 1.0), {}, {"anchor"}),
        (Weights(1.0, 1.0), {"birq__labels__label_gradient": 0.0}, {"anchor", "enhanced_prediction", "enhanced"}),
        (Weights(1.0, 0.0), {}, {"enhanced_prediction", "enhanced_label", "enhanced"}),
    ],
)
def test_only_gradients_that_exist_are_named(batch, weights, changes, names):
    model = make_model(**changes).train()
    losses = model.losses(batch, weights, generator(), observe_labels=True, over_ranks=True)
    found = gradient_products(split_loss(model.bilevel_loss, losses.terms), model.encoder.parameters()).metrics()
    assert {k.removeprefix("gradient_norm_") for k in found if k.startswith("gradient_norm_")} == names
    assert ("gradient_cosine" in found) == ({"anchor", "enhanced"} <= names)


def test_churn_against_labels_made_by_hand():
    churn = Churn()
    device = torch.device("cpu")
    assert churn.look(torch.tensor([[1], [2], [3], [4]]), device) is None
    assert churn.look(torch.tensor([[1], [5], [3], [6]]), device) == 0.5
    assert churn.look(torch.tensor([[1], [5], [3], [6]]), device) == 0.0  # since the last look, not since the first
    books = Churn()
    books.look(torch.tensor([[1, 1], [2, 2]]), device)
    assert books.look(torch.tensor([[1, 9], [2, 2]]), device) == 0.25  # one of two codebooks of one of two frames
    assert Churn().look(None, device) is None


def test_probe_labels_are_those_of_inference_and_of_the_first_seconds(batch):
    model = make_model().train()
    model.losses(batch, Weights(W1, W2), generator(), observe_labels=False, over_ranks=False)  # running statistics
    probe = LabelProbe(2.5, SAMPLE_RATE)
    probe.fill(SpeechBatch(torch.zeros(1, SAMPLE_RATE), torch.tensor([SAMPLE_RATE]), []))  # could not be read
    probe.fill(batch)  # 2.0, 1.3 and 0.7 s
    assert [len(signal) / SAMPLE_RATE for signal in probe.signals] == [2.0, 0.5]
    found = probe.label(model)
    probe.fill(batch)
    assert len(probe.signals) == 2 and model.training and model.encoder.layers[0].training
    model.eval()
    alone = []
    for row, length in ((0, 2 * SAMPLE_RATE), (1, SAMPLE_RATE // 2)):
        labels = model.extract_labels(batch.signal[row : row + 1, :length], torch.tensor([length]))
        alone.append(labels.enhanced[0, : int(labels.lengths[0])])
    assert torch.equal(found, torch.cat(alone))


def test_evaluating_restores_every_module():
    model = make_model().train()
    model.encoder.layers[1].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_code_use_counts_from_the_start_and_chance_from_the_labels():
    health = LabelHealth(8, 1)

    def look(*labels):
        codes = torch.tensor(labels).unsqueeze(1)
        one = torch.tensor(1.0)
        health.update(torch.tensor(20), codes, CrossEntropies(one, one, one, torch.zeros_like(codes), *[None] * 7))
        result = health.compute()
        health.reset()
        return result

    first, second = look(0, 0, 0, 1), look(5, 1)
    assert (first["anchor_coverage"], first["anchor_cumulative_coverage"]) == (2 / 8, 2 / 8)
    assert (second["anchor_coverage"], second["anchor_cumulative_coverage"]) == (2 / 8, 3 / 8)
    assert first["anchor_accuracy"] == 0.75  # code 0 is predicted
    assert first["anchor_unigram_accuracy"] == first["anchor_top1"] == 0.75
    assert first["anchor_unigram_entropy"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert not [name for name in health.state_dict() if "used" in name]  # stock NeMo opens our state dict strictly


def test_silent_utterances():
    signal = torch.zeros(4, 1000)
    signal[1, :500] = 0.3  # constant, then padding
    signal[2] = 3e-5 * torch.randn(1000, generator=generator()).clamp(-1, 1)  # dither
    signal[3, 100:200] = 0.01 * torch.randn(100, generator=generator())
    lengths = torch.tensor([1000, 500, 1000, 1000])
    assert is_silent(signal, lengths).tolist() == [True, True, True, False]
    log = TrainingLog(8, 1, SAMPLE_RATE)
    log.count(SpeechBatch(signal, lengths, list("abcd")))
    log.count(SpeechBatch(signal[3:], lengths[3:], ["e"]))
    assert log.collect()["silent_share"] == pytest.approx(3 / 5)
    log.count(SpeechBatch(signal[3:], lengths[3:], ["e"]))
    assert log.collect()["silent_share"] == 0


def test_statistics_stay_float32_when_the_model_is_cast(tmp_path):
    model = make_model()
    train(model, tmp_path, steps=2, precision="bf16-true")
    log = model.monitor.training_log
    metrics = [log.health, *(metric for metric in log.children() if metric is not log.health)]
    states = [getattr(metric, name) for metric in metrics for name in metric._defaults]
    assert {state.dtype for state in states} == {torch.float32} and len(states) > 10
    assert next(model.parameters()).dtype == torch.bfloat16


def test_utterances_that_could_not_be_read_are_skipped_and_not_silent(batch):
    log = TrainingLog(8, 1, SAMPLE_RATE)
    stand_in = SpeechBatch(torch.zeros(1, SAMPLE_RATE), torch.tensor([SAMPLE_RATE]), [], 3)
    log.count(stand_in)
    metrics = log.collect()
    assert (metrics["silent_share"], metrics["skipped_share"], metrics["audio_hours_per_hour"]) == (0, 1, 0)
    log.count(stand_in._replace(skipped=0))  # a rank that gets no utterance
    for _ in range(399):
        log.count(batch._replace(skipped=1))
    metrics = log.collect()
    assert metrics["skipped_utterances"] == 402 and metrics["skipped_share"] == pytest.approx(402 / (402 + 3 * 399))


class Waits(TorchDispatchMode):
    """Records functions with operations that would wait for a device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        waiting = any(part in name for part in ("_local_scalar_dense", "nonzero", "masked_select", "_unique"))
        if name.startswith("aten.index") and isinstance(args[1], (list, tuple)):
            waiting |= any(index is not None and index.dtype == torch.bool for index in args[1])
        if waiting:
            ours = [f.name for f in traceback.extract_stack() if "nemo" in f.filename and f.name != "positions"]
            self.found.append(ours[-1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("label_gradient", [0.0, 1.0])
def test_nothing_waits_for_the_device_in_a_step(batch, label_gradient):
    model = make_model(birq__labels__label_gradient=label_gradient).train()
    batch = batch._replace(num_samples=batch.signal_length.tolist())
    with Waits() as waits:
        model.losses(batch, Weights(W1, W2), generator(), observe_labels=False, over_ranks=True).loss.backward()
    assert set(waits.found) == {"draw_seed", "masked_positions"}  # which have tensors of the host
    with Waits() as waits:  # and the instrument sees what it should
        model.extract_labels(batch.signal, batch.signal_length)
    assert "extract_labels" in waits.found


def test_nothing_waits_for_the_device_between_looks(batch):
    model = make_model().train()
    losses = model.losses(batch, Weights(W1, W2), generator(), observe_labels=False, over_ranks=True)
    check = FiniteCheck()
    with Waits() as waits:
        check.remember(3, batch, losses.loss)
        model.monitor.training_log.health.update(**losses.health)
        model.monitor.training_log.count(batch)
        parts = split_loss(model.bilevel_loss, losses.terms)
        model.monitor.training_log.gradients = gradient_products(parts, model.encoder.parameters())
    assert waits.found == []
    with Waits() as waits:  # and the instrument sees what it should
        model.monitor.training_log.collect()
    assert waits.found


def test_watching_leaves_the_weights_bit_equal(tmp_path):
    """Six steps with all measurements at every step, and six without, have the same weights, moments and statistics."""
    states, statistics = [], []
    for interval, seconds in ((1, 3.0), (0, 0.0)):
        looks = {"birq__watch__gradient_interval": interval, "birq__watch__probe_seconds": seconds}
        model = make_model(birq__loss__start_step=3, **looks)  # labels are measured before they count, too
        torch.manual_seed(1)  # of dropout
        trainer = train(model, tmp_path / str(interval), steps=6, log_every_n_steps=1 if interval else 1000)
        statistics.append(dict(model.enhanced_labeler.normalization.named_buffers()))
        states.append((model.state_dict(), trainer.optimizers[0].state_dict()["state"], trainer.callback_metrics))
    (watched, watched_moments, seen), (alone, alone_moments, unseen) = states
    assert "train_gradient_cosine" in seen and "train_enhanced_churn" in seen and "train_gradient_cosine" not in unseen
    encoder = [name for name in alone if name.startswith(("encoder.", "decoder_losses."))]
    assert encoder and all(torch.equal(watched[name], alone[name]) for name in encoder)
    labelers = [torch.cat([b.flatten().float() for b in s.values()]) for s in statistics]
    assert torch.equal(*labelers)
    for number, moments in alone_moments.items():
        assert torch.equal(watched_moments[number]["exp_avg_sq"], moments["exp_avg_sq"])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_watching_under_bfloat16(tmp_path, precision):
    model = make_model(birq__watch__gradient_interval=1)
    trainer = train(model, tmp_path, steps=3, log_every_n_steps=1, precision=precision)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert -1 <= metrics["train_gradient_cosine"] <= 1 and 0 <= metrics["train_enhanced_churn"] <= 1
    assert metrics["train_gradient_norm_anchor"] > 0 and metrics["train_gradient_norm_enhanced_label"] > 0


def test_gradients_of_the_tasks_add_up_to_that_of_the_step(tmp_path):
    """Without clipping: |F|^2 + |G|^2 + 2 cos |F| |G| over the encoder is what the optimizer gets there."""

    class Record(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.norm = float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.encoder.parameters()]))

    record = Record()
    model = make_model(birq__watch__gradient_interval=1)
    trainer = train(model, tmp_path, steps=1, log_every_n_steps=1, callbacks=[record])
    m = {name.removeprefix("train_gradient_"): float(value) for name, value in trainer.callback_metrics.items()}
    f, g = m["norm_enhanced"], m["norm_anchor"]
    assert math.sqrt(f * f + g * g + 2 * m["cosine"] * f * g) == pytest.approx(record.norm, rel=1e-4)


def test_validation_compares_labels_with_those_of_the_last(tmp_path):
    model = make_model()
    trainer = train(model, tmp_path, steps=4, log_every_n_steps=1, val_check_interval=2)
    agreement = float(trainer.callback_metrics["val_enhanced_previous_agreement"])
    assert 0 < agreement < 1
    with evaluating(model):
        model.monitor.churn["val"].look(model.monitor.probe.label(model), model.device)
        assert (
            model.monitor.churn["val"].look(model.monitor.probe.label(model), model.device) == 0.0
        )  # the same model, the same labels


def test_a_resumed_run_measures_churn_before_its_first_validation(tmp_path):
    """The churn is that of its earlier probe, the first seconds of the validation data."""
    options = {"log_every_n_steps": 1, "val_check_interval": 1000}
    model, resumed = (make_model(birq__watch__probe_seconds=3.0) for _ in range(2))
    trainer = train(model, tmp_path, steps=2, **options)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    trainer = train(resumed, tmp_path, steps=4, ckpt_path=tmp_path / "kept.ckpt", **options)
    assert 0 < float(trainer.callback_metrics["train_enhanced_churn"]) < 1
    assert len(resumed.monitor.probe.signals) == len(model.monitor.probe.signals) > 0
    assert all(map(torch.equal, resumed.monitor.probe.signals, model.monitor.probe.signals))


def test_peak_memory_is_that_of_the_process():
    log = TrainingLog(8, 1, SAMPLE_RATE)
    before = log.collect()["memory_gb"]
    block = torch.ones(100_000_000)
    after = log.collect()["memory_gb"]
    del block
    assert before > 0.1 and before <= after and 0.4 < after < before + 0.6
    assert log.collect()["memory_gb"] >= after  # the peak stays


def test_codes_ever_used_come_back_with_a_checkpoint(tmp_path):
    model = make_model()
    trainer = train(model, tmp_path, steps=2, log_every_n_steps=1)
    used = model.monitor.training_log.health.anchor_used
    assert used.any()
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    other = make_model()
    train(other, tmp_path / "other", steps=2, ckpt_path=tmp_path / "kept.ckpt")
    assert torch.equal(other.monitor.training_log.health.anchor_used, used)


def test_a_loss_that_is_not_finite_is_found_later_with_its_batch():
    check = FiniteCheck()
    batch = make_batch((0.5,))
    for step, loss in enumerate([1.0, math.inf, math.nan]):
        check.remember(step, batch._replace(ids=[f"clip{step}"]), torch.tensor(loss))
    with pytest.raises(FloatingPointError, match=r"\binf\b.*\bstep 1\b.*\bclip1\b"):
        check.look()
    with pytest.raises(FloatingPointError, match=r"\binf\b.*\bstep 1\b"):  # a second look, such as before saving
        check.look()
    check = FiniteCheck()
    with pytest.raises(FloatingPointError, match=r"\bnan\b.*\bstep 4\b.*\bnames unknown\b"):
        check.remember(4, SpeechBatch(batch.signal, batch.signal_length), torch.tensor(math.nan))
        check.look()


def test_losses_do_not_pile_up_where_nobody_looks():
    check = FiniteCheck()
    for step in range(MAX_PENDING_STEPS):
        check.remember(step, make_batch((0.5,)), torch.tensor(math.nan if step == 7 else 1.0))
    with pytest.raises(NonFiniteError, match=r"\bstep 7\b") as found:
        check.remember(MAX_PENDING_STEPS, make_batch((0.5,)), torch.tensor(1.0))
    assert found.value.step == 7


class Overflow(pl.Callback):
    """Breaks the gradient of one weight in a step with a finite loss."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            next(pl_module.encoder.parameters()).grad.view(-1)[0] = math.inf


@pytest.mark.parametrize("interval", [1, 10**6], ids=["after each step", "at the end"])
def test_weights_that_a_gradient_broke_are_not_saved(tmp_path, interval):
    """The step is the last one, or its checkpoint is made before another loss is seen."""
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=interval, save_top_k=-1)
    with pytest.raises(NonFiniteError, match=r"\bweights\b.*\b3 steps\b") as found:
        train(make_model(), tmp_path, steps=3, enable_checkpointing=True, callbacks=[Overflow(2), saving])
    assert found.value.step == 2
    assert json.loads((tmp_path / "alarms.json").read_text())["alarms"][0]["step"] == 2
    kept = {path.stem for path in tmp_path.glob("*.ckpt")}
    assert kept == ({"step=1", "step=2"} if interval == 1 else set())
    for name in kept:
        state = torch.load(tmp_path / f"{name}.ckpt", weights_only=False)["state_dict"]
        assert all(torch.isfinite(value).all() for value in state.values())


def test_large_weights_are_finite():
    model = make_model()
    next(model.parameters()).data.mul_(1e30)  # their squares are not
    check_weights(model.parameters(), 1)


def test_validation_stops_at_nan_and_not_where_no_frame_is_masked(tmp_path):
    model = make_model(birq__masking__start_probability=1e-9)
    trainer = train(model, tmp_path, steps=2, val_check_interval=1)
    assert float(trainer.callback_metrics["val_loss"]) == 0
    model = make_model()
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))
    norm.running_var.fill_(math.nan)  # training does not use it
    with pytest.raises(NonFiniteError, match=r"\bvalidation\b.*\bnan\b.*\b2 steps\b"):
        train(model, tmp_path, steps=4, val_check_interval=2, num_sanity_val_steps=0)


def test_few_frames_are_judged_by_what_they_can_reach():
    """12 frames on 12 of 8192 codes are as spread as they can be; the same frames on one code have collapsed."""
    spread, one = torch.zeros(1, 8192), torch.zeros(1, 8192)
    spread[0, :12], one[0, 0] = 1, 12
    assert CodeUse.of(spread).normalized_entropy == 1.0 and CodeUse.of(one).normalized_entropy == 0.0
    many = torch.zeros(1, 8192)
    many[0, :64] = 1000  # more frames than codes: ln V counts
    assert CodeUse.of(many).normalized_entropy == pytest.approx(math.log(64) / math.log(8192))
    assert normalized(5.0, 8192, 20) == 1.0  # soft labels of few frames are spread over more codes than there are frames
