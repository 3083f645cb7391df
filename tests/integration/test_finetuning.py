"""Recognizers that begin with a pretrained encoder: loaded weights, freezing, learning rates, the file at the end."""

import json
import math
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from nemo.collections.asr.models import ASRModel
from nemo.utils.exp_manager import exp_manager
from omegaconf import open_dict

from nemo_birq.checkpoint.lightning_checkpoint import read_checkpoint
from nemo_birq.checkpoint.nemo_archive import read_weights
from nemo_birq.finetuning.data import batches_per_epoch, warn_of_long_texts
from nemo_birq.finetuning.initialization import initialize
from nemo_birq.finetuning.preparation import prepare
from nemo_birq.finetuning.training import build_recognizer, build_trainer, save_best
from nemo_birq.finetuning.transcripts import Transcript
from nemo_birq.finetuning.vocabulary import characters
from nemo_birq.losses.transducer import CpuTransducerLoss
from nemo_birq.runs import changed_settings
from nemo_birq.runs.resuming import prepare_resuming
from nemo_birq.scoring.results import score
from tests.helpers.encoders import stock_self_supervised
from tests.helpers.finetuning import SMALL, TEST, build, config
from tests.helpers.models import make_batch, make_model
from tests.helpers.paths import CORPUS, ROOT

pytestmark = pytest.mark.integration

CONFIGS = ("ctc_char", "ctc_bpe", "rnnt_bpe", "hybrid_rnnt_ctc_bpe")
FAST = {"encoder__subsampling": "dw_striding", "encoder__subsampling_factor": 8, "encoder__conv_norm_type": "batch_norm"}
ENCODERS = {"conformer": {}, "fastconformer": FAST | {"encoder__conv_kernel_size": 9}}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> dict[str, Path]:
    """A pretrained file for each encoder, with running statistics that differ from those of a new model."""
    folder = tmp_path_factory.mktemp("pretrained")
    for name, changes in ENCODERS.items():
        model = make_model(seed=1, **changes)
        for key, tensor in model.encoder.named_buffers():
            if key.endswith("running_mean"):
                tensor.normal_()
        model.save_to(str(folder / f"{name}.nemo"))
    return {name: folder / f"{name}.nemo" for name in ENCODERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folder of experiments; the tokenizer of the same texts is built once."""
    return tmp_path_factory.mktemp("experiments")


def encoder_state(model: ASRModel) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.encoder.state_dict().items()}


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- loaded weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_encoder_tensor_is_the_pretrained_one(name, encoder, pretrained, folder):
    model, _ = build(config(name, pretrained[encoder], folder))
    torch.save({"hyper_parameters": {"cfg": model.cfg}}, folder / "configuration.ckpt")
    assert (
        read_checkpoint(folder / "configuration.ckpt")["hyper_parameters"]["cfg"] == model.cfg
    )  # no class of it is foreign
    source = read_weights(pretrained[encoder])
    found = model.state_dict()
    own = {key for key in found if not key.startswith(("encoder.", "preprocessor."))}
    left_out = {key for key in source if not key.startswith(("encoder.", "preprocessor."))}
    assert len(source) - len(left_out) == len(found) - len(own) > 40
    assert all(torch.equal(found[key], value) for key, value in source.items() if key not in left_out)
    assert {key.partition(".")[0] for key in left_out} == {"decoder_losses"}
    heads = {"ctc_char": {"decoder"}, "ctc_bpe": {"decoder"}, "rnnt_bpe": {"decoder", "joint"}}
    assert {key.partition(".")[0] for key in own} == heads.get(name, {"decoder", "joint", "ctc_decoder"})
    assert type(model).__module__.startswith("nemo.collections.asr.models")
    told = str(initialize(model, str(pretrained[encoder])))
    assert f"left out: decoder_losses ({len(left_out)} tensors)" in told and told.startswith("copied: encoder (")


@pytest.mark.parametrize("name", ("ctc_char", "hybrid_rnnt_ctc_bpe"))
def test_an_encoder_that_masks_after_its_subsampling_gives_its_own_outputs(name, folder, tmp_path):
    """NeMo names the subsampling of such a model otherwise, and would leave it random; stock NeMo computes the outputs."""
    stock = stock_self_supervised("EncDecMaskedTokenPredModel", "post_conv").eval()
    stock.save_to(str(tmp_path / "nest.nemo"))
    model, _ = build(config(name, tmp_path / "nest.nemo", folder))
    batch = make_batch()
    with torch.inference_mode():
        features, lengths = stock.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        stock.pre_encoder.set_masking_enabled(apply_mask=False)
        wanted = stock.encoder(audio_signal=features, length=lengths)
        model.eval()
        own, own_lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        found = model.encoder(audio_signal=own, length=own_lengths)
    assert torch.equal(own, features)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("suffix", ["nemo", "ckpt"])
def test_a_recognizer_gives_its_encoder_and_not_its_decoder(suffix, pretrained, folder, tmp_path):
    """A transducer that begins with the encoder of a CTC recognizer, whose encoder no longer is the pretrained one."""
    first, trainer = build(config("ctc_char", pretrained["conformer"], folder))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn_like(parameter))
    path = tmp_path / f"ctc.{suffix}"
    if suffix == "nemo":
        first.save_to(str(path))
    else:
        trainer.strategy.connect(first)
        trainer.save_checkpoint(path)
    model, _ = build(config("hybrid_rnnt_ctc_bpe", path, folder))
    assert equal(encoder_state(model), encoder_state(first))
    told = str(initialize(model, str(path)))
    assert "left out: decoder (2 tensors); new: ctc_decoder (2 tensors), decoder (" in told


@pytest.mark.parametrize("fresh", [1, 2])
def test_fresh_layers_are_those_of_a_recognizer_from_scratch(fresh, pretrained, folder):
    """All other layers are the pretrained ones."""
    scratch, _ = build(config("ctc_char", pretrained["conformer"], folder, "from_scratch=true"))
    model, _ = build(config("ctc_char", pretrained["conformer"], folder, f"fresh_layers={fresh}"))
    source, own, random = read_weights(pretrained["conformer"]), model.state_dict(), scratch.state_dict()
    top = tuple(f"encoder.layers.{layer}." for layer in range(3 - fresh, 3))
    for key in source:
        if key.startswith(("encoder.", "preprocessor.")):
            assert torch.equal(own[key], random[key] if key.startswith(top) else source[key]), key
    name = "encoder.layers.2.conv.pointwise_conv1.weight"
    assert not torch.equal(source[name], random[name])
    told = str(initialize(scratch, str(pretrained["conformer"]), fresh))
    assert "left out: decoder_losses" in told and ", encoder (" in told


def test_from_scratch_takes_the_architecture_alone(pretrained, folder):
    model, _ = build(config("ctc_char", pretrained["conformer"], folder, "from_scratch=true"))
    source = read_weights(pretrained["conformer"])
    assert model.encoder.d_model == 32 and len(model.encoder.layers) == 3
    assert not torch.equal(model.state_dict()["encoder.layers.0.conv.pointwise_conv1.weight"],
                           source["encoder.layers.0.conv.pointwise_conv1.weight"])  # fmt: skip


def test_nemos_dict_form(pretrained, folder):
    cfg = config("ctc_char", "x", folder)
    cfg.init_from_nemo_model = {"ssl": {"path": str(pretrained["conformer"]), "include": ["encoder"]}}
    model, _ = build(cfg)
    source = read_weights(pretrained["conformer"])
    assert equal(encoder_state(model), {k[8:]: v for k, v in source.items() if k.startswith("encoder.")})


def test_dropout_may_differ(pretrained, folder):
    model, _ = build(config("ctc_char", pretrained["conformer"], folder, "+model.encoder.dropout=0.3"))
    assert model.cfg.encoder.dropout == 0.3 and model.encoder.layers[0].dropout.p == 0.3


def test_tensors_are_compared_when_the_configuration_says_nothing(pretrained, folder):
    """The weights of the file do not fit its own configuration."""
    cfg = config("ctc_char", pretrained["conformer"], folder, "from_scratch=true")
    model, _ = build(cfg)
    model.encoder.layers = model.encoder.layers[:2]
    model.encoder.layers[0].norm_out = torch.nn.LayerNorm(16)
    with pytest.raises(ValueError) as error:
        initialize(model, str(pretrained["conformer"]))
    lines = str(error.value).splitlines()
    assert "  encoder.layers.0.norm_out.bias: (16,); pretrained: (32,)" in lines
    assert f"  encoder.layers.2.norm_out.bias: only in {pretrained['conformer']}" in lines


# --- the schedule -----------------------------------------------------------------------------------------------------


class Watch(pl.Callback):
    """Records the encoder and both learning rates before each step."""

    def __init__(self):
        self.encoders, self.rates, self.epochs = [], [], defaultdict(list)

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        self.encoders.append(encoder_state(model))
        self.epochs[trainer.current_epoch].append(batch[1].tolist())

    def on_before_optimizer_step(self, trainer, model, optimizer):
        groups = optimizer.param_groups
        encoder = {id(parameter) for parameter in model.encoder.parameters()}
        assert [{id(p) for p in group["params"]} == encoder for group in groups] == [False, True]
        self.rates.append(tuple(group["lr"] for group in groups))


@pytest.fixture(scope="module")
def trained(pretrained, folder):
    """A training of three epochs, with the encoder frozen for the first 0.3 of them."""
    cfg = config(
        "ctc_char", pretrained["conformer"], folder, "trainer.max_epochs=3", "freeze_encoder=0.3",
        "model.train_ds.batch_duration=20", "+trainer.limit_val_batches=1", "model.validation_ds.batch_duration=30",
        "exp_manager.ema.enable=true", "exp_manager.ema.decay=0.5", "name=ema",
    )  # fmt: skip
    path, _ = prepare(cfg)
    trainer, num_steps = build_trainer(cfg)
    experiment = exp_manager(trainer, cfg.exp_manager)
    model = build_recognizer(cfg, trainer, num_steps, path)
    watch = Watch()
    trainer.callbacks.append(watch)
    trainer.fit(model)
    last = {key: value.clone() for key, value in model.state_dict().items()}
    nemo = save_best(model, trainer, experiment, cfg.name)
    return num_steps, trainer, watch, last, nemo


def test_a_frozen_encoder_stays_as_it_is_with_its_statistics(trained, pretrained):
    num_steps, trainer, watch, _, _ = trained
    source = {k[8:]: v for k, v in read_weights(pretrained["conformer"]).items() if k.startswith("encoder.")}
    assert any(key.endswith("running_mean") for key in source)
    frozen = int(0.3 * num_steps)
    assert frozen >= 3
    assert all(equal(encoder, source) for encoder in watch.encoders[: frozen + 1])
    first = watch.encoders[frozen + 1]
    trainable = dict(trainer.lightning_module.encoder.named_parameters())
    assert sum(not torch.equal(first[key], source[key]) for key in trainable) > 0.9 * len(trainable)
    means = [key for key in first if key.endswith("running_mean")]
    assert all(not torch.equal(first[key], source[key]) for key in means)


def test_nemos_own_freezing_moves_the_statistics(pretrained, folder):
    """This is the reason for the callback. If NeMo changes this, ``model.freeze_updates`` can replace it."""
    frozen = "+model.freeze_updates={enabled: true, modules: {encoder: 10}}"
    changes = ["trainer.max_steps=1", "freeze_encoder=0", "+trainer.limit_val_batches=0", frozen]
    cfg = config("ctc_char", pretrained["conformer"], folder, *changes)
    model, trainer = build(cfg)
    before = encoder_state(model)
    trainer.fit(model)
    assert trainer.global_step == 1
    after = encoder_state(model)
    changed = {key.rpartition(".")[2] for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_two_learning_rates_through_warmup_hold_and_annealing(trained):
    steps, trainer, watch, _, _ = trained
    assert trainer.global_step == len(watch.rates) and abs(steps - trainer.global_step) <= 3  # one an epoch
    warmup, hold = int(0.1 * steps), int(0.4 * steps)

    def factor(step: int, peak: float) -> float:
        if step <= warmup:
            return peak * (step + 1) / (warmup + 1)
        if step < warmup + hold:
            return peak
        if step > steps:
            return 1e-6
        return peak - (peak - 1e-6) * (step - warmup - hold) / (steps - warmup - hold)

    expected = [(factor(step, 1e-3), factor(step, 3e-4)) for step in range(trainer.global_step)]
    torch.testing.assert_close(torch.tensor(watch.rates), torch.tensor(expected))


def test_a_resumed_run_follows_its_own_configuration(pretrained, folder, tmp_path, monkeypatch):
    """This concerns learning rates, schedule and its length. Changes are listed, and other characters are refused."""
    said = []
    monkeypatch.setattr(changed_settings, "logging", SimpleNamespace(info=said.append))

    def prepared(*changes):
        model, trainer = build(config("ctc_char", pretrained["conformer"], folder, "freeze_encoder=0",
                                      "+trainer.limit_val_batches=0", "trainer.max_epochs=-1", *changes))  # fmt: skip
        trainer.ckpt_path = str(tmp_path / "half.ckpt") if (tmp_path / "half.ckpt").exists() else None
        trainer.callbacks.append(Watch())
        return model, trainer

    model, trainer = prepared("trainer.max_steps=2")
    prepare_resuming(model, trainer)
    trainer.fit(model)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    model, trainer = prepared("trainer.max_steps=4", "model.optim.lr=2e-3", "model.optim_param_groups.encoder.lr=1e-4")
    prepare_resuming(model, trainer)
    assert [line.strip() for line in said[0].splitlines()[1:]] == [
        "model.optim.lr: 0.001 -> 0.002",
        "model.optim_param_groups.encoder.lr: 0.0003 -> 0.0001",
        "trainer.max_steps: 2 -> 4",
    ]
    watch = next(callback for callback in trainer.callbacks if isinstance(callback, Watch))
    trainer.fit(model)
    expected = [[peak - (peak - 1e-6) * (step - 1) / 3 for peak in (2e-3, 1e-4)] for step in (2, 3)]
    torch.testing.assert_close(torch.tensor(watch.rates), torch.tensor(expected))
    with open_dict(model.cfg):
        model.cfg.labels = model.cfg.labels[::-1]
    with pytest.raises(ValueError, match=r"the meaning of labels or features would change with model\.labels: "):
        prepare_resuming(model, trainer)


def test_each_epoch_reads_every_utterance_once(trained):
    """With single files, the epoch ends with the data, and each epoch has another order."""
    epochs = trained[2].epochs
    lengths = [sorted(length for batch in epoch for length in batch) for epoch in epochs.values()]
    assert len(lengths) == 3 and all(epoch == lengths[0] for epoch in lengths) and len(lengths[0]) == 60
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_file_at_the_end_has_the_moving_average_of_the_best_validation(trained):
    _, trainer, _, last, nemo = trained
    best = Path(trainer.checkpoint_callback.best_model_path)
    average = torch.load(best.with_name(f"{best.stem}-EMA.ckpt"), weights_only=False)["state_dict"]
    assert equal(read_weights(nemo), average)
    assert not equal(average, torch.load(best, weights_only=False)["state_dict"]) and not equal(average, last)
    model = ASRModel.restore_from(str(nemo))
    assert equal(model.state_dict(), average)
    content = nemo.read_bytes()
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert save_best(model, trainer, nemo.parents[1], "ema") == nemo and nemo.read_bytes() == content
    assert not nemo.with_name("ema-v1.nemo").exists()  # the same command after its end
    with torch.no_grad():
        next(model.parameters()).zero_()
    model.save_to(str(nemo))
    content = nemo.read_bytes()
    assert save_best(model, trainer, nemo.parents[1], "ema") == nemo and equal(read_weights(nemo), average)
    assert nemo.with_name("ema-v1.nemo").read_bytes() == content  # the earlier file is kept


def test_without_a_validation_the_file_has_the_average_of_the_last_step(pretrained, folder, monkeypatch):
    """With fewer steps than in an epoch, NeMo does not validate, and a warning informs the user."""
    cfg = config("ctc_char", pretrained["conformer"], folder, "trainer.max_steps=2", "freeze_encoder=0",
                 "exp_manager.ema.enable=true", "exp_manager.ema.decay=0.5", "name=short")  # fmt: skip
    path, _ = prepare(cfg)
    said = []
    monkeypatch.setattr("nemo_birq.finetuning.training.logging.warning", said.append)
    trainer, num_steps = build_trainer(cfg)
    assert "trainer.max_steps=2 ends about 2 batches into an epoch of 17; these are not validated" in "".join(said)
    experiment = exp_manager(trainer, cfg.exp_manager)
    model = build_recognizer(cfg, trainer, num_steps, path)
    trainer.fit(model)
    assert trainer.checkpoint_callback.best_model_path == ""
    (average,) = (experiment / "checkpoints").glob("*-last-EMA.ckpt")
    nemo = save_best(model, trainer, experiment, cfg.name)
    assert equal(read_weights(nemo), torch.load(average, weights_only=False)["state_dict"])


def test_an_epoch_of_shards_is_as_many_batches_as_hold_it(pretrained, folder):
    cfg = config("ctc_char", pretrained["conformer"], folder,
                 f"model.train_ds.manifest_filepath={CORPUS}/train/sharded_manifests/manifest__OP_0..3_CL_.json",
                 f"model.train_ds.tarred_audio_filepaths={CORPUS}/train/audio__OP_0..3_CL_.tar",
                 "model.train_ds.use_bucketing=false", "model.train_ds.batch_duration=null",
                 "+model.train_ds.batch_size=7")  # fmt: skip
    lines = (CORPUS / "train" / "tarred_audio_manifest.json").read_text().splitlines()
    batches = math.ceil(len(lines) / 7)
    assert batches_per_epoch(cfg.model.train_ds, 1) == batches
    assert batches_per_epoch(cfg.model.train_ds, 2) == math.ceil(batches / 2)
    cfg.trainer.limit_train_batches = 0.5
    trainer, num_steps = build_trainer(cfg)
    assert trainer.limit_train_batches == batches // 2 and num_steps == 30 * (batches // 2)
    cfg.trainer.limit_train_batches = 1000  # an endless stream has any number of them
    assert build_trainer(cfg)[0].limit_train_batches == 1000 and build_trainer(cfg)[1] == 30000


def test_more_batches_than_single_files_have_are_no_limit(pretrained, folder):
    """Lightning would wait for batch 1000 before it validates."""
    trainer, num_steps = build_trainer(
        config("ctc_char", pretrained["conformer"], folder, "trainer.limit_train_batches=1000")
    )
    assert trainer.limit_train_batches == 1.0 and num_steps % 30 == 0 and num_steps < 1000


def test_the_schedule_ends_where_training_ends(pretrained, folder):
    """Lightning stops at whichever comes first, max_steps or max_epochs."""
    few = config("ctc_char", pretrained["conformer"], folder, "trainer.max_steps=100000", "trainer.max_epochs=2")
    assert build_trainer(few)[1] == 2 * batches_per_epoch(few.model.train_ds, 1)
    few.trainer.max_steps = 3
    assert build_trainer(few)[1] == 3
    few.trainer.max_epochs = -1
    assert build_trainer(few)[1] == 3
    few.trainer.max_steps = -1
    with pytest.raises(ValueError, match=r"trainer\.max_epochs.*trainer\.max_steps"):
        build_trainer(few)


# --- small pieces -----------------------------------------------------------------------------------------------------


def test_texts_that_are_longer_than_their_audio_has_frames():
    lines = [Transcript("a.wav", "abcdefgh", 1.0), Transcript("b.wav", "abcdefghijkl", 1.0)]
    assert warn_of_long_texts(lines, characters(list("abcdefghijkl")), 0.1) == 1
    assert warn_of_long_texts(lines, characters(list("abcdefghijkl")), 0.08) == 0


# --- as a user does ---------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_the_script_from_shards_to_a_table(pretrained, tmp_path):
    """Builds a tokenizer, trains from tar shards, writes a recognizer that stock NeMo opens, and scores two test sets."""
    shards = [f"model.train_ds.manifest_filepath={CORPUS}/train/sharded_manifests/manifest__OP_0..3_CL_.json",
              f"model.train_ds.tarred_audio_filepaths={CORPUS}/train/audio__OP_0..3_CL_.tar"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "speech_to_text_finetune.py"), "--config-name=ctc_bpe", *SMALL, *shards,
         f"init_from_nemo_model={pretrained['fastconformer']}",
         f"test_manifests=['synthetic={TEST}',{CORPUS}/validation/validation.json]",
         f"exp_manager.exp_dir={tmp_path}", "trainer.max_epochs=2", "trainer.limit_train_batches=2",
         "build_tokenizer.vocab_size=64"],
        capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-4000:]
    scores = {path.stem: json.loads(path.read_text()) for path in tmp_path.rglob("scores/*.json")}
    assert scores.keys() == {"synthetic", "validation"}
    for name, found in scores.items():
        assert re.search(rf"{name} +WER .* {100 * found['wer']:.1f} ", printed) and f"{100 * found['cer']:.1f}" in printed
    assert "Normalization of references and hypotheses: Unicode form NFKC" in printed
    model = ASRModel.restore_from(str(next(tmp_path.rglob("CTC-BPE.nemo"))))
    assert type(model).__name__ == "EncDecCTCModelBPE" and model.tokenizer.vocab_size == 64
    heard = model.transcribe([f"{CORPUS}/test/{scores['synthetic']['utterances'][0]['audio_filepath']}"], verbose=False)
    assert heard[0].text == scores["synthetic"]["utterances"][0]["hypothesis"]


@pytest.mark.parametrize("name", ["rnnt_bpe", "hybrid_rnnt_ctc_bpe"])
def test_transducers_train_and_transcribe(name, pretrained, folder, tmp_path):
    lines = Path(TEST).read_text().splitlines()[:3]
    manifest = tmp_path / "three.json"
    manifest.write_text("\n".join(lines).replace('"audio/', f'"{CORPUS}/test/audio/'))
    changes = ["trainer.max_steps=2", "freeze_encoder=1", "model.train_ds.batch_duration=6",
               f"model.validation_ds.manifest_filepath={manifest}", "trainer.limit_train_batches=2"]  # fmt: skip
    model, trainer = build(config(name, pretrained["fastconformer"], folder, *changes))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer.fit(model)
    after = model.state_dict()
    moved = {key.partition(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert moved == {"encoder", "decoder", "joint"} | ({"ctc_decoder"} if "hybrid" in name else set())
    assert "val_wer" in trainer.callback_metrics and math.isfinite(trainer.callback_metrics["train_loss"])
    assert len(score(model, str(manifest))["utterances"]) == 3


@pytest.mark.parametrize(
    ("change", "fast"),
    [
        ("model.loss.loss_name=default", True),
        ("model.loss.warprnnt_numba_kwargs.fastemit_lambda=0.01", False),
        ("model.loss.warprnnt_numba_kwargs.clamp=1.0", False),
        ("model.loss.loss_name=pytorch", False),
    ],
)
def test_only_the_default_loss_of_a_transducer_is_replaced_on_a_cpu(change, fast, pretrained, folder):
    model, _ = build(config("hybrid_rnnt_ctc_bpe", pretrained["fastconformer"], folder, change))
    assert isinstance(model.loss, CpuTransducerLoss) == fast
    assert model.joint.loss is model.loss and model.loss.reduction == "mean_batch"
