"""A step does not make the host wait for a device, and the instrument that checks this detects waits."""

import sys
from dataclasses import replace

import pytest
import torch

from nemo_birq.labels.normalization import LayerNormalization
from nemo_birq.monitoring.step_flops import step_work
from tests.helpers.benchmarks import SMALL
from tests.helpers.models import FAST, generator, make_batch, make_model
from tests.helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import step_profile
from device_waits import META, recording
from step_variants import Setting

pytestmark = pytest.mark.unit
ALLOWED = {"aten::_to_copy in to_device of rng.py"}  # from pinned memory, which is asynchronous on a GPU
CASES = {
    "default": {"birq__labels__label_gradient": 0.0, "birq__loss__head": "separate"},
    "paper": {},
    "whiten": {"birq__labels__normalization": "whiten"},
    "tracked": {"birq__labels__codebook": "tracked", "birq__labels__label_gradient": 0.0},
    "best-rq": {"birq__loss__enhanced_weight": 0.0},
    "fastconformer": FAST,
}


def step_of(model, optimizer, batch):
    """Returns a function that does everything of a training step that is not logged, except Lightning."""
    weights = model.schedule.full
    losses = model.losses(batch, weights, generator(), observe_labels=False, over_ranks=True)
    monitor = model.monitor
    monitor.finite.remember(0, batch, losses.loss)
    monitor.training_log.health.update(**losses.health)
    monitor.training_log.count(batch)
    monitor.training_log.count_work(step_work(model, batch, losses))
    losses.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("case", CASES)
def test_nothing_waits_in_a_step_that_is_not_logged(case):
    model = make_model(**CASES[case]).train().to(META)
    model.monitor.training_log.to(META)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    batch = make_batch()
    batch = batch._replace(
        signal=batch.signal.to(META),
        signal_length=batch.signal_length.to(META),
        num_samples=batch.signal_length.tolist(),
    )
    with recording() as found:
        step_of(model, optimizer, batch)
        step_of(model, optimizer, batch._replace(noisy=batch.signal[1:2], mixed=[1]))
    assert set(found.waits) == ALLOWED and found.operations.total() > 1000


def test_the_instrument_sees_what_waits():
    signal = torch.empty(4, 5, device=META)
    waiting = {
        "item": lambda: signal.sum().item(),
        "float": lambda: float(signal.sum()),
        "bool": lambda: bool(signal.sum() > 0),
        "copy to the device": lambda: signal.copy_(torch.zeros(4, 5)),
        "number to the device": lambda: torch.tensor(3.0, device=META),
        "tensor to the device": lambda: torch.zeros(3).to(META),
        "nonzero": lambda: signal.nonzero(),
        "boolean index": lambda: signal[signal > 0],
    }
    for name, operation in waiting.items():
        with recording() as found:
            operation()
        assert found.waits, name
        assert "of test_device_waits.py" in next(iter(found.waits))


def test_the_instrument_passes_over_what_does_not_wait():
    signal = torch.empty(4, 5, device=META)
    with recording() as found:
        signal.mul(2).sum()
        torch.zeros(3).to(META, non_blocking=True)
        torch.full((), 3.0, device=META)
        torch.arange(4)[torch.tensor([True, False, True, False])].sum().item()  # of the host
        signal.view(20), signal.T, torch.empty(3, device=META)
    assert found.waits.total() == 0
    assert found.operations == {"mul": 1, "sum": 1, "_to_copy": 1, "full": 1}


def test_the_normalization_draws_its_identity_on_the_device():
    normalization = LayerNormalization(8, "whiten", 0.9).to(META).train()
    with recording() as found:
        normalization(torch.empty(2, 6, 8, device=META), torch.ones(2, 6, dtype=torch.bool, device=META), torch.arange(3))
    assert found.waits.total() == 0


def test_profile_of_a_step(tmp_path, monkeypatch, capsys):
    out = tmp_path / "profile.json"
    batch = ["--batch-seconds", "2", "--utterance-seconds", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["step_profile.py", *SMALL, *batch, "--out", str(out)])
    step_profile.main()
    printed = capsys.readouterr().out
    assert "operations of the device in a step, 3 waits" in printed and "to_device" in printed and "aten::" in printed
    setting = Setting("birq_conformer_tiny", SMALL, batch_seconds=2, utterance_seconds=1)
    ours, stock = (step_profile.count_operations(name, setting) for name in ("BiRQ", "stock BEST-RQ"))
    assert set(ours["waits"]) == ALLOWED and 500 < ours["operations"] < 3000
    deeper = step_profile.count_operations("BiRQ", replace(setting, overrides=(*SMALL, "model.encoder.n_layers=4")))
    assert deeper["operations"] > 1.4 * ours["operations"]
    assert stock["operations"] > 300


def test_busy_time_is_that_of_the_union():
    assert step_profile._union([(0, 2), (1, 3), (5, 6), (5.5, 5.8)]) == 4
    assert step_profile._union([]) == 0
