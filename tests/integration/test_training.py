"""The scripts as a user runs them, on the embedded corpus, with a small model."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
import soundfile
import torch
from experiments.budgets import read_budget
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_birq import BiRQModel
from nemo_birq.config import resolve_layer
from nemo_birq.data.shards.writer import Utterance, write_shards
from nemo_birq.report.events import scalars
from tests.helpers.models import make_batch
from tests.helpers.paths import CORPUS, ROOT
from tests.helpers.scripts import log_lines, pretrain
from tests.helpers.shards import wav

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a run with 12 steps, which the same command resumes to 20 steps."""
    folder = tmp_path_factory.mktemp("trained")
    printed = pretrain(folder, "trainer.max_steps=12", "trainer.val_check_interval=6", fresh=True)
    first = torch.load(next(folder.rglob("*-last.ckpt")), weights_only=False, map_location="cpu")
    again = pretrain(folder, "trainer.max_steps=20", "trainer.val_check_interval=6")
    return folder, printed, first, again


def test_training_logs_health_of_both_tasks(trained):
    folder, printed, _, _ = trained
    lines = log_lines(printed)
    assert [step for step, _ in lines] == [0, 3, 7, 11]
    assert all("enhanced" in line and "pick=nearest" in line and "h/h" in line for _, line in lines)
    logged = scalars(folder)
    for name in (
        "anchor_loss", "anchor_accuracy", "anchor_perplexity", "anchor_normalized_entropy", "anchor_unigram_entropy",
        "enhanced_loss", "enhanced_accuracy", "enhanced_perplexity", "enhanced_normalized_entropy", "selection_agreement",
        "anchor_agreement", "masked_fraction", "anchor_cumulative_coverage", "enhanced_unigram_accuracy",
    ):  # fmt: skip
        assert f"train_{name}" in logged and f"val_{name}" in logged, name
    for name in ("train_grad_norm", "learning_rate", "train_audio_hours_per_hour", "train_enhanced_weight", "val_loss",
        "train_enhanced_churn", "val_enhanced_previous_agreement", "train_gradient_norm_anchor", "train_silent_share",
    ):  # fmt: skip
        assert name in logged, name
    assert logged["train_anchor_loss"][0][0] == 0
    assert 0.1 < logged["train_masked_fraction"][-1][1] < 0.6
    assert logged["train_enhanced_weight"][0][1] == 0.0 < logged["train_enhanced_weight"][-1][1]


def test_resumed_run_goes_on_where_it_stopped(trained):
    folder, _, first, again = trained
    assert "Restoring states from the checkpoint" in again or "Restored all states" in again
    last = torch.load(max(folder.rglob("*-last.ckpt"), key=lambda p: p.stat().st_mtime), weights_only=False)
    assert first["global_step"] == 12 and last["global_step"] == 20
    adam = last["optimizer_states"][0]["state"]
    assert {int(state["step"]) for state in adam.values()} == {20}
    schedule = last["lr_schedulers"][0]
    assert schedule["last_epoch"] == 20 and first["lr_schedulers"][0]["last_epoch"] == 12
    assert [step for step, _ in log_lines(again)] == [15, 19]
    assert json.loads((folder / "small" / "alarms.json").read_text()) == {"status": "too short to judge", "alarms": []}
    assert all(torch.equal(first["birq_label_tensors"][k], last["birq_label_tensors"][k]) for k in ("codebook",))


def test_training_ends_with_a_nemo_file(trained):
    folder = trained[0]
    model = BiRQModel.restore_from(str(next(folder.rglob("small.nemo")))).eval()
    last = torch.load(max(folder.rglob("*-last.ckpt"), key=lambda p: p.stat().st_mtime), weights_only=False)
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in last["state_dict"].items())
    batch = make_batch()
    assert model.extract_labels(batch.signal, batch.signal_length).anchor.max() < 64


def test_training_ends_with_a_model_card(trained, tmp_path):
    """It is beside and inside the .nemo; that of the first 12 steps, which may have been edited, is kept."""
    checkpoints = next(trained[0].rglob("small.nemo")).parent
    text = (checkpoints / "README.md").read_text()
    assert "\n20 steps, ended" in text and "\n12 steps, ended" in (checkpoints / "README-v1.md").read_text()
    durations = [
        json.loads(line)["duration"] for line in (CORPUS / "train/tarred_audio_manifest.json").read_text().splitlines()
    ]
    used = [duration for duration in durations if 0.5 <= duration <= 20.0]
    assert f"| training | train/manifest__OP_0..3_CL_.json | {len(used)} | {sum(used) / 3600:.2f} |" in text
    assert "| validation | validation/validation.json | 60 |" in text and str(CORPUS) not in text
    with tarfile.open(checkpoints / "small.nemo") as archive:
        (packed,) = [member for member in archive if member.name.endswith("_README.md")]
        assert archive.extractfile(packed).read().decode() == text


def test_same_seed_same_run(tmp_path, trained):
    """Weights, masks, noise and data repeat, so that two runs can be compared."""
    again = pretrain(tmp_path, "trainer.max_steps=4", "trainer.val_check_interval=6")

    def numbers(printed):
        return [line.split("| lr")[0] for _, line in log_lines(printed)][:2]

    assert len(numbers(again)) == 2
    assert numbers(again) == numbers(trained[1])


def test_webdataset_and_bf16_train_from_the_same_shards(tmp_path):
    printed = pretrain(
        tmp_path, "trainer.max_steps=4", "trainer.val_check_interval=4", "model.train_ds.use_lhotse=false",
        "model.train_ds.is_tarred=true", "model.train_ds.batch_size=8", "trainer.precision=bf16-mixed",
        "objective=paper", "trainer.accumulate_grad_batches=2",
    )  # fmt: skip
    assert log_lines(printed)[-1][0] == 3 and list(tmp_path.rglob("small.nemo"))


def test_best_rq_config_trains_without_the_label_pass(tmp_path):
    printed = pretrain(
        tmp_path, "trainer.max_steps=4", "trainer.val_check_interval=4",
        "trainer.precision=32", "model.train_ds.num_workers=1", "model.validation_ds.num_workers=0", "model.optim.lr=0.05",
        config="best_rq_conformer_large",
    )  # fmt: skip
    step, line = log_lines(printed)[-1]
    assert step == 3 and "enhanced" not in line


def test_non_finite_loss_stops_with_step_names_and_remedy(tmp_path):
    """A far too high learning rate makes the weights overflow; earlier files are kept."""
    clips = []
    for number in range(6):
        buffer = io.BytesIO()
        signal = 0.1 * np.random.default_rng(number).normal(size=16000).astype(np.float32)
        soundfile.write(buffer, signal, 16000, format="WAV", subtype="FLOAT")
        clips.append(Utterance(f"clip{number}.wav", buffer.getvalue(), {"duration": 1.0}))
    write_shards(clips, tmp_path / "shards", 1)
    printed = pretrain(
        tmp_path, "trainer.max_steps=12",
        "+exp_manager.checkpoint_callback_params={every_n_train_steps: 1, every_n_epochs: null}",
        "trainer.val_check_interval=100", "model.train_ds.shuffle=false",
        "model.train_ds.use_bucketing=false", "model.train_ds.batch_duration=null", "model.train_ds.batch_size=2",
        f"model.train_ds.manifest_filepath={tmp_path}/shards/sharded_manifests/manifest_0.json",
        f"model.train_ds.tarred_audio_filepaths={tmp_path}/shards/audio_0.tar", "model.optim.lr=1e25", fails=True,
    )  # fmt: skip
    message = next(line for line in printed.splitlines() if "the loss is nan" in line)
    step = int(re.search(r"nan at step (\d+)", message)[1])
    first = 2 * step % 6
    assert f"Utterances of the batch: clip{first}.wav, clip{first + 1}.wav." in message
    assert "resume with a lower model.optim.lr" in message
    kept = torch.load(next(tmp_path.rglob("*-last.ckpt")), weights_only=False)
    assert kept["global_step"] == step and all(torch.isfinite(v).all() for v in kept["state_dict"].values())
    assert not list(tmp_path.rglob("small.nemo"))


def test_training_goes_on_without_bad_audio_and_stops_where_there_is_much_of_it(tmp_path):
    clips = [Utterance(f"clip{i}.wav", wav(pitch=200 + 20 * i), {"duration": 1.0}) for i in range(40)]
    clips += [Utterance(f"bad{i}.wav", b"RIFF", {"duration": 1.0}) for i in range(20)]
    write_shards(clips, tmp_path / "shards", 2)
    data = [
        f"model.train_ds.manifest_filepath={tmp_path}/shards/sharded_manifests/manifest__OP_0..1_CL_.json",
        f"model.train_ds.tarred_audio_filepaths={tmp_path}/shards/audio__OP_0..1_CL_.tar", "trainer.max_steps=12",
        "model.train_ds.batch_duration=5", "trainer.log_every_n_steps=6",
    ]  # fmt: skip
    printed = pretrain(tmp_path, *data, fails=True)
    assert "Skipped bad" in printed and "model.train_ds.max_skipped_share=0.05" in printed
    printed = pretrain(tmp_path, *data, "model.train_ds.max_skipped_share=0.5", "name=tolerant")
    assert log_lines(printed)[-1][0] == 11 and "| skipped " in log_lines(printed)[-1][1]


def test_bad_data_is_refused_before_training(tmp_path):
    (tmp_path / "dev.json").write_text('{"audio": "a.wav"}\n')
    printed = pretrain(tmp_path, f"model.validation_ds.manifest_filepath={tmp_path}/dev.json", fails=True)
    assert "lacks ['audio_filepath', 'duration']" in printed and not log_lines(printed)


@pytest.mark.parametrize("config", ["birq_conformer_large", "birq_conformer_275m", "birq_conformer_tiny"])
def test_paper_preset_has_the_papers_values_in_every_configuration(config):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        paper = compose(config, overrides=["objective=paper"]).model.birq
        default = compose(config).model.birq
    assert (paper.loss.enhanced_weight, paper.loss.anchor_weight, paper.labels.temperature) == (0.1, 2.4, 0.5)
    assert (paper.loss.start_step, paper.loss.ramp_steps, paper.labels.label_gradient) == (0, 0, 1.0)
    assert default.loss.start_step > 0 and default.labels.label_gradient == 0.0


def test_tracked_preset_is_what_the_experiments_compared():
    """It equals the method birq_tracked of the cpu budget, and the default otherwise."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        preset = compose("birq_conformer_tiny", overrides=["objective=tracked"]).model.birq
        default = compose("birq_conformer_tiny").model.birq
    for override in read_budget("cpu").methods["birq_tracked"].overrides:
        key, value = override.removeprefix("model.birq.").split("=")
        OmegaConf.update(default, key, OmegaConf.create({"value": value}).value)
    assert resolve_layer(preset.labels.layer, 4) == int(default.labels.layer)
    preset.labels.layer = default.labels.layer
    assert {key: str(value) for key, value in preset.labels.items()} == {k: str(v) for k, v in default.labels.items()}
    assert float(preset.loss.enhanced_weight) == float(default.loss.enhanced_weight) == 1.0


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        ("birq_conformer_tiny", 2),
        ("birq_conformer_large", 121),
        ("best_rq_conformer_large", 121),
        ("birq_conformer_137m", 137),
        ("birq_conformer_155m", 155),
        ("birq_conformer_275m", 274),
        ("birq_fastconformer_large", 109),
        ("birq_fastconformer_streaming", 109),
    ],
)
def test_configurations_have_the_size_they_say(config, millions):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose(config, overrides=["model.train_ds=null", "model.validation_ds=null"])
    model = BiRQModel(cfg.model)
    size = sum(parameter.numel() for parameter in model.encoder.parameters()) / 1e6
    assert round(size) == millions
    expected = {"birq_conformer_large": 13, "birq_fastconformer_large": 12}.get(config)
    assert expected is None or model.layer == expected
