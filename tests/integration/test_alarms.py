"""Each alarm is raised in a run that fails in this way, and none in a healthy run, with real trainers and small models."""

import json

import lightning.pytorch as pl
import pytest
import torch
from nemo.utils.exp_manager import exp_manager
from torch.utils.data import DataLoader

from nemo_birq.config import parse
from nemo_birq.monitoring import alarm_rules
from nemo_birq.monitoring.alarm_rules import RULES, LoggedStep, replaced_labels, shrinking_labels
from nemo_birq.report.events import scalars
from tests.helpers.models import Speech, make_batch, make_model, train

pytestmark = pytest.mark.integration

STEPS = 80
# Small enough to learn below its unigram entropy within these steps: three batches again and again, short spans, no dropout.
EASY = {
    "birq__masking__span_frames": 8,
    "birq__masking__start_probability": 0.04,
    "birq__labels__label_gradient": 0.0,
    "birq__loss__head": "separate",
    "birq__watch__learned_by_step": STEPS,
} | {f"encoder__{name}": 0.0 for name in ("dropout", "dropout_pre_encoder", "dropout_att", "dropout_emb")}
# What the paper does, on fast forward: one head, gradient through the labels, and their task ahead of the anchor.
COLLAPSING = {
    "birq__masking__span_frames": 12,
    "birq__masking__start_probability": 0.03,
    "birq__labels__label_gradient": 1.0,
    "birq__labels__logit_scale": 20.0,
    "birq__loss__head": "shared",
    "birq__loss__enhanced_weight": 1.0,
    "birq__loss__anchor_weight": 0.2,
    "birq__quantizer__num_codes": 64,
    "decoder__num_classes": 64,
}


def one_of_three(batch):
    return make_batch((1.5, 1.2, 0.9, 0.8), seed=int(batch.signal[0, 0] * 1e6) % 3)


def run(folder, steps=STEPS, lr=3e-3, spoil=lambda model: None, changed=one_of_three, log_every_n_steps=20, **changes):
    """Trains, and returns the model and the content of ``alarms.json``."""
    model = make_model(**EASY | changes)
    spoil(model)
    train(model, folder, steps, lr=lr, change=changed, log_every_n_steps=log_every_n_steps, val_check_interval=STEPS)
    return model, json.loads((folder / "alarms.json").read_text())


def names(record) -> dict[str, int]:
    return {alarm["name"]: alarm["step"] for alarm in record["alarms"]}


def test_a_healthy_run_has_no_alarm(tmp_path):
    _, record = run(tmp_path)
    assert record == {"status": "healthy", "alarms": []}


def test_a_short_run_is_not_called_healthy(tmp_path):
    _, record = run(tmp_path, steps=2, log_every_n_steps=1)
    assert record == {"status": "too short to judge", "alarms": []}
    _, record = run(tmp_path / "alone", steps=2, log_every_n_steps=1, birq__loss__anchor_weight=0.0)
    assert record == {"status": "healthy", "alarms": []}  # there is no anchor task


def test_a_dead_front_end(tmp_path):
    """Its output is constant, so the encoder gets no information and learns only the frequencies of the codes."""

    def kill(model):
        for parameter in model.encoder.pre_encode.parameters():
            parameter.data.zero_()
            parameter.requires_grad = False

    _, record = run(tmp_path, spoil=kill)
    alarm = next(alarm for alarm in record["alarms"] if alarm["name"] == "anchor_not_learned")
    assert record["status"] == "unhealthy" and alarm["step"] == STEPS - 1
    assert alarm["value"] < alarm["threshold"] == alarm_rules.MIN_GAIN and "learning rate" in alarm["message"]


def test_collapse_is_announced_and_then_found(tmp_path):
    _, record = run(tmp_path, steps=150, lr=5e-3, log_every_n_steps=10, **COLLAPSING)
    found = names(record)
    assert 0 < found["shrinking_labels"] < found["collapsed_labels"] and "noise_labels" not in found
    collapsed = next(alarm for alarm in record["alarms"] if alarm["name"] == "collapsed_labels")
    assert collapsed["value"] < collapsed["threshold"] == 0.3 and "objective=default" in collapsed["message"]


@pytest.mark.parametrize(
    ("name", "changes", "remedy"),
    [
        ("noise_labels", {"birq__labels__logit_scale": 1.0}, "logit_scale (now 1;"),
        ("degenerate_features", {"preprocessor__normalize": None}, "normalize=per_feature"),
        ("collapsed_labels", {"birq__labels__normalization": "layer_norm"}, "normalization=per_feature"),
        ("masked_share", {"birq__masking__span_frames": 2}, "Raise model.birq.masking.start_probability"),
        ("masked_share", {"birq__masking__start_probability": 0.5}, "Lower model.birq.masking.start_probability"),
    ],
)
def test_sick_settings_are_named_in_the_first_steps(tmp_path, name, changes, remedy):
    _, record = run(tmp_path, steps=2, log_every_n_steps=1, **changes)
    assert name in names(record)
    assert remedy in next(alarm["message"] for alarm in record["alarms"] if alarm["name"] == name)


def test_silent_batches(tmp_path):
    def half(batch):
        signal = batch.signal.clone()
        signal[:2] = 0
        return batch._replace(signal=signal)

    _, record = run(tmp_path, steps=1, changed=half)
    assert "silence" in names(record)
    assert next(a for a in record["alarms"] if a["name"] == "silence")["value"] == 0.5


def test_unreadable_data_are_logged_and_kept_before_the_run_stops(tmp_path):
    seen = []

    def unreadable(batch):
        seen.append(batch)
        return batch._replace(skipped=12 * (len(seen) > 1))  # the first is for validation

    with pytest.raises(RuntimeError, match=r"\b12 .*75\.0%.*model\.train_ds\.max_skipped_share=0\.05"):
        run(tmp_path, log_every_n_steps=1, changed=unreadable, birq__labels__logit_scale=1.0)
    record = json.loads((tmp_path / "alarms.json").read_text())
    assert record["status"] == "interrupted" and names(record) == {"noise_labels": 0, "unreadable_data": 0}
    stop = record["alarms"][1]
    assert (stop["value"], stop["threshold"]) == (0.75, 0.05)
    assert scalars(tmp_path)["train_skipped_utterances"] == [(0, 12)]

    folder = tmp_path / "validation"
    with pytest.raises(RuntimeError, match="validation_ds"):
        run(folder, changed=lambda batch: batch._replace(skipped=12))
    assert "unreadable_data" in names(json.loads((folder / "alarms.json").read_text()))


def test_a_loss_that_is_not_finite_ends_the_run_and_is_kept(tmp_path):
    seen = []

    def break_third(batch):
        seen.append(batch)
        if len(seen) == 4:  # one batch is for validation
            batch.signal[1, 3000] = float("nan")
        return batch._replace(ids=[f"{len(seen)}-{name}" for name in batch.ids])

    with pytest.raises(FloatingPointError, match=r"step 2\b.*4-utterance-0, 4-utterance-1"):
        run(tmp_path, changed=break_third, log_every_n_steps=4)
    record = json.loads((tmp_path / "alarms.json").read_text())
    assert record["status"] == "interrupted" and "non_finite_loss" in names(record)


def test_a_resumed_run_keeps_its_alarms_and_does_not_repeat_them(tmp_path):
    changes = EASY | {"birq__labels__logit_scale": 1.0, "birq__watch__learned_by_step": 3}
    trainer = train(make_model(**changes), tmp_path, steps=2)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    before = json.loads((tmp_path / "alarms.json").read_text())
    model = make_model(**changes)
    train(model, tmp_path, steps=4, ckpt_path=tmp_path / "kept.ckpt")
    after = json.loads((tmp_path / "alarms.json").read_text())
    assert names(before) == {"noise_labels": 0}
    assert after["alarms"][0] == before["alarms"][0] and names(after) == {"noise_labels": 0, "anchor_not_learned": 2}
    fresh = tmp_path / "fresh"
    train(make_model(**EASY), fresh, steps=1)
    assert json.loads((fresh / "alarms.json").read_text())["alarms"] == []


def managed(folder, steps, change=lambda batch: batch, **changes):
    """Trains like the script, with NeMo's exp_manager, and resumes the second time; returns ``alarms.json``."""
    model = make_model(**EASY | changes)
    model.configure_optimizers = lambda: torch.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, limit_val_batches=1, val_check_interval=2, check_val_every_n_epoch=None,
        log_every_n_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    resume = {"resume_if_exists": True, "resume_ignore_no_checkpoint": True, "use_datetime_version": False}
    saved = {"create_checkpoint_callback": True, "checkpoint_callback_params": {"always_save_nemo": False}}
    exp_manager(trainer, {"exp_dir": str(folder), "name": "run", **resume, **saved})
    loader = DataLoader(Speech(change), batch_size=None)
    model._validation_dl = loader
    trainer.fit(model, loader, DataLoader(Speech(), batch_size=None))
    return json.loads((folder / "run" / "alarms.json").read_text())


@pytest.fixture
def hermetic(monkeypatch):
    """exp_manager leaves its log files open in the process."""
    monkeypatch.setattr("nemo.utils.exp_manager.logging.add_file_handler", lambda *_, **__: None)
    monkeypatch.setattr("nemo.utils.exp_manager.logging.add_err_file_handler", lambda *_, **__: None)


def test_alarms_survive_the_exp_manager_which_moves_their_file(tmp_path, hermetic):
    noise = {"birq__labels__logit_scale": 1.0}
    assert names(managed(tmp_path, steps=4, **noise)) == {"noise_labels": 0}
    assert (tmp_path / "run" / "alarms.json").exists()
    again = managed(tmp_path, steps=8, **noise)
    assert (tmp_path / "run" / "run_0" / "alarms.json").exists()  # moved away
    assert names(again) == {"noise_labels": 0} and again["status"] == "unhealthy"


def test_a_finished_run_that_is_started_again_has_its_alarms_and_its_verdict(tmp_path, hermetic):
    noise = {"birq__labels__logit_scale": 1.0}
    finished = managed(tmp_path, steps=2, **noise)
    again = managed(tmp_path, steps=2, **noise)
    assert (tmp_path / "run" / "run_0" / "alarms.json").exists()  # moved away, and nothing is left to train
    assert again == finished and names(again) == {"noise_labels": 0} and again["status"] == "unhealthy"


def test_a_run_that_nan_stopped_is_not_healthy_after_resuming(tmp_path, hermetic):
    """The alarm came after the last checkpoint, so only the moved file knows of it."""
    seen = []

    def break_fourth(batch):
        seen.append(batch)
        return batch._replace(signal=batch.signal * float("nan")) if len(seen) == 4 else batch

    changes = {"birq__watch__learned_by_step": 10**6}
    with pytest.raises(FloatingPointError):
        managed(tmp_path, 8, break_fourth, **changes)
    assert json.loads((tmp_path / "run" / "alarms.json").read_text())["status"] == "interrupted"
    record = managed(tmp_path, 8, **changes)
    assert set(names(record)) == {"non_finite_loss"} and record["status"] == "unhealthy"
    third = managed(tmp_path, 12, **changes)
    assert third["alarms"] == record["alarms"]


def test_alarms_are_said_once_and_summed_up(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("nemo_birq.monitoring.alarms.logging.warning", lambda text: said.append(text))
    run(tmp_path, steps=3, log_every_n_steps=1, birq__labels__logit_scale=1.0)
    assert [text.split(":")[0] for text in said] == ["ALARM noise_labels at step 0", "This run was not healthy, 1 alarm(s)"]
    assert "the nearest code has only" in said[1]


HEALTHY = {
    "anchor_loss": 4.2, "anchor_unigram_entropy": 4.6, "anchor_normalized_entropy": 0.8, "anchor_perplexity": 99.0,
    "anchor_top1": 0.05, "enhanced_loss": 3.2, "enhanced_unigram_entropy": 4.4, "enhanced_normalized_entropy": 0.8,
    "enhanced_perplexity": 78.0, "enhanced_weight": 0.5, "selection_agreement": 0.7, "masked_fraction": 0.25,
    "silent_share": 0.0, "skipped_utterances": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set()),
        ({"selection_agreement": 0.09}, {"noise_labels"}),
        ({"enhanced_normalized_entropy": 0.29, "enhanced_weight": 0.0}, set()),  # they do not count yet
        ({"masked_fraction": 0.61}, {"masked_share"}),
        ({"anchor_loss": 4.56}, {"anchor_not_learned"}),
        ({"silent_share": 0.1}, set()),
        # The loss falls by 0.9 nats. Where the entropy falls by 0.3 of them, most was learned; where by 1.2, nothing was.
        ({"enhanced_loss": 2.3, "enhanced_unigram_entropy": 4.1, "enhanced_normalized_entropy": 0.55}, set()),
        ({"enhanced_loss": 2.3, "enhanced_unigram_entropy": 3.2, "enhanced_normalized_entropy": 0.58}, {"shrinking_labels"}),
        ({"enhanced_loss": 3.3, "enhanced_unigram_entropy": 3.2, "enhanced_normalized_entropy": 0.58}, set()),
        # Real speech with V = 8192 and codes that were replaced all at once: the loss rises above ln V.
        ({"enhanced_loss": 9.6, "enhanced_unigram_entropy": 7.9, "enhanced_normalized_entropy": 0.87}, {"replaced_labels"}),
        ({"enhanced_loss": 4.69, "enhanced_unigram_entropy": 4.4}, set()),
        # Collapsed labels have an alarm of their own.
        ({"enhanced_loss": 2.0, "enhanced_unigram_entropy": 0.7, "enhanced_normalized_entropy": 0.11},
         {"collapsed_labels", "shrinking_labels"}),
    ],
)  # fmt: skip
def test_rules_at_their_thresholds(change, expected):
    logged = LoggedStep(6000, HEALTHY | change, parse({}), HEALTHY, enhanced_learned=True)
    assert {rule.__name__ for rule in RULES if rule(logged) is not None} == expected


def test_a_high_loss_before_the_labels_are_learned_is_no_alarm():
    early = HEALTHY | {"enhanced_loss": 9.6, "enhanced_unigram_entropy": 7.9}
    assert replaced_labels(LoggedStep(100, early, parse({}), HEALTHY)) is None


@pytest.mark.parametrize("gradient", [0.0, 1.0])
def test_the_advice_for_shrinking_labels_lowers_no_gradient_that_is_zero(gradient):
    fewer = {"enhanced_loss": 2.3, "enhanced_unigram_entropy": 3.2, "enhanced_normalized_entropy": 0.58}
    found = shrinking_labels(LoggedStep(6000, HEALTHY | fewer, parse({"labels": {"label_gradient": gradient}}), HEALTHY))
    assert ("Lower model.birq.labels.label_gradient" in found.message) == (gradient > 0)
    assert ("lower model.birq.loss.enhanced_weight" in found.message) == (gradient == 0)


@pytest.mark.parametrize(("codebook", "advice"), [("tracked", "codebook_momentum"), ("random", "model.optim.lr")])
def test_the_advice_for_replaced_labels_names_their_cause(codebook, advice):
    burst = HEALTHY | {"enhanced_loss": 9.6, "enhanced_unigram_entropy": 7.9, "enhanced_replaced": 0.69}
    birq = parse({"labels": {"codebook": codebook}})
    message = replaced_labels(LoggedStep(230, burst, birq, HEALTHY, enhanced_learned=True)).message
    assert advice in message and ("69.0%" in message) == (codebook == "tracked")


def test_best_rq_has_no_alarm_about_labels_it_does_not_make():
    anchor_only = {name: value for name, value in HEALTHY.items() if "enhanced" not in name and "selection" not in name}
    logged = LoggedStep(6000, anchor_only | {"enhanced_weight": 0.0}, parse({"loss": {"enhanced_weight": 0.0}}), None)
    assert not any(rule(logged) for rule in RULES)
    nothing_masked = {"masked_fraction": 0.0, "silent_share": 0.0, "skipped_utterances": 0.0, "enhanced_weight": 0.0}
    assert [rule.__name__ for rule in RULES if rule(LoggedStep(9, nothing_masked, parse({}), None))] == ["masked_share"]
