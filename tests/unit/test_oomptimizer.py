"""NeMo's OOMptimizer on our configurations, and the bins that it prints in a run."""

import json

import lightning.pytorch as pl
import pytest
import torch
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from nemo.core.neural_types import AudioSignal, LengthsType
from omegaconf import OmegaConf

from nemo_birq import BiRQModel
from nemo_birq.data.factory import build_dataloader
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.overrides import composed, overridden
from tests.helpers.shards import noise, write

pytestmark = pytest.mark.unit
SMALL = (
    "model.encoder.n_layers=2", "model.encoder.d_model=32", "model.birq.labels.layer=1", "model.birq.quantizer.num_codes=64"
)  # fmt: skip
WITHOUT_DATA = ("model.train_ds.manifest_filepath=null", "model.validation_ds.manifest_filepath=null")
FULL_LOSS = ("enhanced_start_step=0", "enhanced_ramp_steps=0")


def test_pretrained_models_are_those_of_the_parent():
    assert BiRQModel.list_available_models() == SpeechEncDecSelfSupervisedModel.list_available_models() != []


def test_steps_as_the_script_takes_them(tmp_path):
    """It goes from the resolved file to a step of the optimizer without Lightning's loop, like NeMo's oomptimizer.py."""
    path = tmp_path / "resolved.yaml"
    OmegaConf.save(composed("", "birq_conformer_tiny", *SMALL, *WITHOUT_DATA, *FULL_LOSS, resolve=True), path)
    cfg = OmegaConf.load(path)
    model = BiRQModel(cfg=cfg.model, trainer=pl.Trainer(barebones=True))
    model.trainer.log_every_n_steps = 1000000
    assert model.sample_rate == SAMPLE_RATE  # the script takes 16000 where a model has none
    optimizer, _ = model.setup_optimization({"name": "adamw", "lr": 1e-7, "weight_decay": 0.0})
    kinds = [item["type"].elements_type for item in model.oomptimizer_schema["inputs"]]
    assert [type(kind) for kind in kinds] == [AudioSignal, LengthsType] and model.oomptimizer_schema["cls"] is tuple
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for batch_size in (2, 3):
        signal = torch.randn(batch_size, SAMPLE_RATE)
        with torch.autocast("cpu", torch.bfloat16):
            optimizer.zero_grad()
            loss = model.training_step((signal, torch.full((batch_size,), SAMPLE_RATE)), 0)["loss"]
            loss.sum().backward()
            optimizer.step()
        assert torch.isfinite(loss)
    assert model.schedule.at(0) == model.schedule.full  # the label pass is in the memory that was measured
    assert any(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert model.monitor.finite.steps == []  # nothing is gathered, where no training has put the log on its device


def test_the_bins_that_it_prints_make_the_batches_of_a_run(tmp_path):
    write(tmp_path / "a.wav", noise(4.0))
    lines = [{"audio_filepath": "a.wav", "duration": round(0.5 + 0.04 * i, 2)} for i in range(100)]
    (tmp_path / "files.json").write_text("\n".join(map(json.dumps, lines)))
    cfg = composed("", "birq_conformer_tiny", resolve=True)
    bins, sizes = [1.5, 3.0, 4.2], [8, 4, 2]
    with overridden(
        cfg, f"model.train_ds.manifest_filepath={tmp_path}/files.json", "model.train_ds.min_duration=0.1",
        f"+model.train_ds.bucket_duration_bins={bins}", f"+model.train_ds.bucket_batch_size={sizes}",
    ):  # fmt: skip
        order = build_dataloader(cfg.model.train_ds, SAMPLE_RATE, 0, 1, training=True).sampler
    plan = order.plan(0, 1)
    durations = order.indexes[0].durations
    longest = [durations[rows].max() for rows in plan.batches(0, len(plan))]
    numbers = [len(rows) for rows in plan.batches(0, len(plan))]
    allowed = [next(size for end, size in zip(bins, sizes, strict=True) if seconds <= end) for seconds in longest]
    assert all(number <= size for number, size in zip(numbers, allowed, strict=True))
    assert {8, 4, 2} <= set(numbers) and len(plan.rows) == sum(durations <= 4.2)
