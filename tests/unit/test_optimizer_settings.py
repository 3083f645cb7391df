"""A resumed run has the learning rates and settings of its own configuration at its step."""

import copy
import math
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from nemo.collections.common.callbacks import EMA
from nemo.core.optim import get_optimizer
from nemo.core.optim.lr_scheduler import prepare_lr_scheduler
from omegaconf import OmegaConf

from nemo_birq.runs.optimizer_settings import OptimizerSettings

pytestmark = pytest.mark.unit
STOP, STEPS = 6, 12
SCHEDULES = {
    "cosine": {"name": "CosineAnnealing", "warmup_steps": 3, "min_lr": 1e-6},
    "noam": {"name": "NoamAnnealing", "d_model": 16, "warmup_steps": 3, "min_lr": 1e-6},
    "warm-up": {"name": "WarmupAnnealing", "warmup_ratio": 0.25},
    "inverse square root": {"name": "InverseSquareRootAnnealing", "warmup_steps": 2},
    "hold": {"name": "WarmupHoldAnnealLinear", "warmup_ratio": 0.25, "hold_ratio": 0.25, "min_lr": 1e-6},
    "steps": {"name": "StepLR", "step_size": 2, "gamma": 0.5},
    "plateau": {"name": "ReduceLROnPlateau", "factor": 0.5, "patience": 0},
    "none": None,
}


class Line(pl.LightningModule):
    """A model of two parameters with NeMo's optimizer and schedule, which records the settings of each step."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.save_hyperparameters("cfg")
        self.encoder, self.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
        self.rates = {}

    def training_step(self, batch, _):
        loss = self.head(self.encoder(batch)).square().mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.rates[self.trainer.global_step] = [group["lr"] for group in optimizer.param_groups]

    def configure_optimizers(self):
        settings = OmegaConf.to_container(self.cfg.optim)
        name, schedule = settings.pop("name"), settings.pop("sched", None)
        groups = [{"params": list(self.head.parameters())}, {"params": list(self.encoder.parameters())}]
        groups[1] |= self.cfg.optim_param_groups.encoder
        optimizer = get_optimizer(name)(groups, **settings)
        if schedule is None:
            return optimizer
        return [optimizer], [prepare_lr_scheduler(optimizer, schedule | {"max_steps": self.trainer.max_steps})]


def config(schedule="cosine", **optim):
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01} | optim
    if SCHEDULES[schedule]:
        optim["sched"] = SCHEDULES[schedule] | {"monitor": "loss"}
    return OmegaConf.create({"optim": optim, "optim_param_groups": {"encoder": {"lr": optim["lr"] / 4}}})


def run(cfg, steps, checkpoint=None, callbacks=(), max_steps=STEPS):
    """Trains to a step, in epochs of one batch; the schedule is as long as ``max_steps``."""
    torch.manual_seed(0)
    model = Line(cfg)
    stop = pl.callbacks.LambdaCallback(on_train_batch_end=lambda trainer, *_: setattr(
        trainer, "should_stop", trainer.global_step == steps))  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=max_steps, max_epochs=-1, logger=False, enable_checkpointing=False, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[*callbacks, OptimizerSettings(), stop],
    )  # fmt: skip
    data = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=None), ckpt_path=checkpoint)
    assert trainer.global_step == steps
    return model, trainer


def stopped(cfg, folder, **options):
    _, trainer = run(cfg, STOP, **options)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def rest(rates):
    return {step: values for step, values in rates.items() if step >= STOP}


@pytest.fixture
def said(monkeypatch):
    said = []
    log = SimpleNamespace(info=said.append, warning=said.append)  # not NeMo's own, which others write to as well
    monkeypatch.setattr("nemo_birq.runs.optimizer_settings.logging", log)
    return said


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_same_settings_end_with_the_weights_of_the_uninterrupted_run(tmp_path, schedule, said):
    whole, _ = run(config(schedule), STEPS)
    resumed, _ = run(config(schedule), STEPS, stopped(config(schedule), tmp_path))
    assert resumed.rates == rest(whole.rates) and len(resumed.rates) == STEPS - STOP
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))
    assert not said


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "plateau"])
def test_other_settings_give_the_rates_of_their_own_schedule(tmp_path, schedule):
    changed = config(schedule, lr=1e-2)
    fresh, _ = run(changed, STEPS, max_steps=20)
    resumed, trainer = run(changed, STEPS, stopped(config(schedule), tmp_path), max_steps=20)
    assert list(resumed.rates) == list(range(STOP, STEPS))
    for step, rates in resumed.rates.items():
        assert rates == pytest.approx(fresh.rates[step], rel=1e-12), step
    assert {float(state["step"]) for state in trainer.optimizers[0].state.values()} == {STEPS}  # moments went on


def test_rates_are_those_of_the_closed_form(tmp_path):
    cosine, _ = run(config(lr=1e-5), STEPS, stopped(config(), tmp_path))
    expected = [1e-6 + (1e-5 - 1e-6) * 0.5 * (1 + math.cos(math.pi * (step - 3) / 9)) for step in range(STOP, STEPS)]
    assert [rates[0] for rates in cosine.rates.values()] == pytest.approx(expected)
    noam, _ = run(config("noam", lr=2.0), STEPS, stopped(config("noam", lr=1.0), tmp_path))
    expected = [2.0 * 16**-0.5 * step**-0.5 for step in range(STOP, STEPS)]
    assert [rates[0] for rates in noam.rates.values()] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("adamw", {"weight_decay": 0.5, "betas": [0.5, 0.9], "eps": 1e-4}),
        ("novograd", {"weight_decay": 0.5, "grad_averaging": True}),
        ("adan", {"weight_decay": 0.5, "betas": [0.5, 0.6, 0.7]}),
        ("sgd", {"momentum": 0.9}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_setting_of_the_optimizer_counts(tmp_path, name, change, said):
    before = config(name=name)
    if name == "sgd":
        del before.optim.weight_decay
    after = copy.deepcopy(before)
    after.optim.update(change)
    checkpoint = stopped(before, tmp_path)
    same, _ = run(before, STEPS, checkpoint)
    changed, trainer = run(after, STEPS, checkpoint)
    for group in trainer.optimizers[0].param_groups:
        found = {key: list(group[key]) if isinstance(group[key], tuple) else group[key] for key in change}
        assert found == change
    assert same.rates == changed.rates
    assert not torch.equal(same.head.weight, changed.head.weight)
    for key in change:
        assert f"{key} of parameter group 1 " in said[0]


def test_the_log_names_what_changed(tmp_path, said):
    run(config(lr=1e-5), STEPS, stopped(config(), tmp_path), max_steps=20)
    (text,) = said
    assert text.startswith(
        "Resumed at step 6 with the optimizer settings of this run: lr of parameter group 0 0.001 -> 1e-05, "
    )
    assert "schedule's max_steps 12 -> 20" in text and "base_lrs" not in text and "decay_steps" not in text
    assert text.endswith("The learning rate is now 9.33e-06, 2.39e-06 instead of 0.00075, 0.000188")


@pytest.mark.parametrize(
    "schedules", [("cosine", "noam"), ("none", "cosine"), ("cosine", "none"), ("steps", "hold")], ids=str
)
def test_another_schedule_takes_over_at_its_own_step(tmp_path, schedules):
    then, now = map(config, schedules)
    fresh, _ = run(now, STEPS)
    resumed, trainer = run(now, STEPS, stopped(then, tmp_path))
    assert resumed.rates == rest(fresh.rates)
    assert all(config.scheduler.last_epoch == STEPS for config in trainer.lr_scheduler_configs)


@pytest.mark.parametrize("change", [{"name": "novograd"}, {"name": "sgd", "weight_decay": 0.0}], ids=str)
def test_another_optimizer_begins_with_its_own_moments(tmp_path, change, said):
    fresh, _ = run(config(**change), STEPS)
    resumed, _ = run(config(**change), STEPS, stopped(config(), tmp_path))
    assert resumed.rates == rest(fresh.rates)
    assert "the checkpoint has adamw with parameter groups encoder, but this run has" in said[0]


def test_a_plateau_keeps_its_reductions(tmp_path):
    checkpoint = stopped(config("plateau", lr=0.3), tmp_path)
    reduced = torch.load(checkpoint, weights_only=False)["optimizer_states"][0]["param_groups"][0]["lr"]
    assert reduced < 0.3
    resumed, _ = run(config("plateau", lr=0.03), STEPS, checkpoint)
    assert resumed.rates[STOP] == pytest.approx([reduced / 10, reduced / 40])


def test_a_checkpoint_of_an_earlier_version_follows_as_well(tmp_path):
    path = stopped(config("none"), tmp_path)
    checkpoint = torch.load(path, weights_only=False)
    for group in checkpoint["optimizer_states"][0]["param_groups"]:
        del group["initial_lr"]
    torch.save(checkpoint, path)
    assert run(config("none", lr=1e-4), STEPS, path)[0].rates[STOP] == pytest.approx([1e-4, 2.5e-5])
    assert run(config("none"), STEPS, path)[0].rates[STOP] == [1e-3, 2.5e-4]


def test_the_moving_average_has_the_configured_decay(tmp_path, said):
    checkpoint = stopped(config(), tmp_path, callbacks=[EMA(0.9)])
    _, trainer = run(config(), STEPS, checkpoint, callbacks=[EMA(0.5)])
    assert trainer.optimizers[0].decay == 0.5 and "moving average's decay 0.9 -> 0.5" in said[0]
