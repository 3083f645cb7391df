"""Offline relabelling: the labels of training are those of extraction, and the teacher travels with the model."""

import copy
import runpy
import shutil
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from sklearn.metrics import pairwise_distances_argmin

from nemo_birq import BiRQModel
from nemo_birq.checkpoint.nemo_archive import read_config
from nemo_birq.data.dataset import SpeechDataset
from nemo_birq.evaluation.label_quality.evaluation import evaluate
from nemo_birq.evaluation.label_quality.utterances import read_utterances
from nemo_birq.evaluation.preflight import measure as preflight
from nemo_birq.export.bare_encoder import strip
from nemo_birq.extraction.clustering import check_size, cluster
from nemo_birq.extraction.data import open_data
from nemo_birq.extraction.features import compute_features
from nemo_birq.extraction.labels import compute_labels
from nemo_birq.labels.teacher import TeacherLabeler, nearest_centroids, read_teacher_file
from nemo_birq.loading import LoadedEncoder, load_encoder
from nemo_birq.losses.bilevel import Weights
from nemo_birq.modules.frame_times import anchor_times, encoder_times
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.finetuning import build, config
from tests.helpers.manifests import short_lines, write_manifest
from tests.helpers.models import SAMPLE_RATE, generator, make_batch, make_model, train
from tests.helpers.paths import CORPUS, ROOT
from tests.helpers.scripts import SMALL, log_lines, pretrain

pytestmark = pytest.mark.integration

LAYER, CLUSTERS, COUNT = 2, 20, 24
ALONE = {"birq__loss__enhanced_weight": 0.0, "birq__quantizer__num_codes": CLUSTERS, "decoder__num_classes": CLUSTERS}
NOISY = {"encoder__dropout": 0.3, "encoder__dropout_att": 0.3, "encoder__stochastic_depth_drop_prob": 0.3}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("data") / "few.json", short_lines(COUNT))


@pytest.fixture(scope="module")
def data(manifest):
    return open_data(str(manifest), None, SAMPLE_RATE)


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory) -> Path:
    """BEST-RQ with dropout in its configuration, and with running statistics of a training."""
    model = make_model(seed=3, birq__loss__enhanced_weight=0.0, **NOISY).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(4):
        model.losses(make_batch(seed=step), Weights(0.0, 1.0), generator(step), False, True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    path = tmp_path_factory.mktemp("first") / "best_rq.nemo"
    model.save_to(str(path))
    return path


@pytest.fixture(scope="module")
def opened(first_stage) -> LoadedEncoder:
    return load_encoder(first_stage)


@pytest.fixture(scope="module")
def clustering(first_stage, opened, data):
    with ProgressBars(disable=True) as progress:
        return cluster(opened, data, LAYER, CLUSTERS, progress, first_stage.name)


@pytest.fixture(scope="module")
def teacher(clustering, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    clustering.file.save(path)
    return path


def second_stage(teacher: Path, **changes) -> BiRQModel:
    return make_model(birq__relabelling__teacher=str(teacher), **ALONE | changes)


# --- labels -----------------------------------------------------------------------------------------------------------


def test_nearest_centroids_are_those_of_float64():
    frames, centroids = 3 + torch.randn(3000, 24, generator=generator(1)), 3 + torch.randn(40, 24, generator=generator(2))
    expected = pairwise_distances_argmin(frames.double().numpy(), centroids.double().numpy())
    assert np.mean(nearest_centroids(frames, centroids).numpy() == expected) > 0.999
    assert nearest_centroids(frames[:0], centroids).shape == (0,)


def offline(opened: LoadedEncoder, batch, centroids: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels of one utterance from extracted features, by exact distances, and the margin of each."""
    (found,) = compute_features(opened, batch, [LAYER], torch.float32)
    hidden = torch.from_numpy(found[f"layer_{LAYER}"]).double()
    distances, order = torch.cdist(hidden, centroids.double()).sort(dim=1)
    return order[:, 0].numpy(), (distances[:, 1] - distances[:, 0]).numpy() > 1e-3


@pytest.mark.parametrize("autocast", [False, True])
def test_labels_in_training_are_those_of_offline_extraction(opened, teacher, clustering, data, autocast):
    """A padded, masked batch in training mode with dropout is compared with single utterances in the whole first model."""
    rows = [0, 5, 9, 13]
    student = second_stage(teacher, **NOISY).train()
    speech = SpeechDataset(data.indexes, SAMPLE_RATE)
    batch = speech[rows]
    assert len(set(batch.signal_length.tolist())) > 1  # padded
    features, lengths = student.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    mask = student.masking.draw(lengths, features.shape[2], generator(4))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        losses = student.losses_of_features(features, lengths, mask, Weights(0.0, 1.0), generator(5))
    labels, frames = losses.terms["anchor_labels"], student.masked_frames(mask, features.shape[2] // 4)
    per_utterance = features.shape[2] // 4
    assert labels.shape == (len(frames), 1) and len(frames) > 50

    compared = 0
    for number, row in enumerate(rows):
        expected, clear = offline(opened, speech[[row]], clustering.file.centroids)
        here = frames // per_utterance == number
        position = (frames[here] % per_utterance).numpy()
        assert position.max() < len(expected) and clear.mean() > 0.95
        clear = clear[position]
        assert np.array_equal(labels[here, 0].numpy()[clear], expected[position][clear])
        compared += clear.sum()
    assert compared > 0.95 * len(frames) and len(labels.unique()) > 5


def test_every_way_to_label_gives_the_teachers_labels(opened, teacher, clustering, data):
    model = second_stage(teacher).eval()
    batch = SpeechDataset(data.indexes, SAMPLE_RATE)[[2]]
    expected, clear = offline(opened, batch, clustering.file.centroids)
    found = model.extract_labels(batch.signal, batch.signal_length)
    assert np.array_equal(found.anchor[0, : found.lengths[0], 0].numpy()[clear], expected[clear])
    (extracted,) = compute_labels(model, batch, "anchor")
    assert np.array_equal(extracted[clear, 0], expected[clear])
    assert anchor_times(model) == encoder_times(model) != anchor_times(make_model())
    assert preflight.measure(model, [batch], 1.0).labels["anchor"].coverage > 0.2


def test_label_quality_takes_the_teachers_labels(teacher):
    model = second_stage(teacher).eval()
    utterances = read_utterances(CORPUS / "validation" / "validation.json", CORPUS / "validation" / "phones.ctm", 30 / 3600)
    with ProgressBars(disable=True) as progress:
        found = evaluate(model, utterances, progress, kmeans=False)
    assert any(f"{CLUSTERS} clusters of layer {LAYER} of best_rq.nemo" in note for note in found.notes)
    assert found.rows[0].labels == "anchor" and found.rows[0].quality.codes_used > 5
    # At the times of the encoder, as the enhanced labels.
    assert np.array_equal(found.joint["anchor"].sum(axis=1), found.joint["enhanced"].sum(axis=1))


# --- frozen, and beside the model -------------------------------------------------------------------------------------


def test_teacher_is_no_part_of_the_model(teacher):
    plain, model = make_model(**ALONE), second_stage(teacher)
    own = model.state_dict()
    assert own.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())  # the same initial weights
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    buffers = [name for name, _ in plain.named_buffers(remove_duplicate=False) if not name.startswith("anchor_labeler.")]
    assert [
        name for name, _ in model.named_buffers(remove_duplicate=False)
    ] == buffers  # nothing replaces the projection of the input

    before = copy.deepcopy(model.teacher.encoder.state_dict())
    model.train().to(torch.bfloat16)
    assert not model.teacher.encoder.training and model.teacher.centroids.dtype == torch.float32
    model.float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = model.losses(make_batch(), Weights(0.0, 1.0), generator(0), False, True)
    losses.loss.backward()
    optimizer.step()
    after = model.teacher.encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.encoder.parameters())
    name = "encoder.layers.0.norm_out.weight"
    assert not torch.equal(model.state_dict()[name], plain.state_dict()[name])  # the student, though, has learned
    assert all(not name.startswith(f"layers.{LAYER}.") for name in model.teacher.file.weights)  # layers 1..K alone


def test_a_new_student_trains_and_resumes_on_the_labels(teacher, tmp_path):
    """The health of the labels is logged under the names of the anchor task."""
    half = second_stage(teacher)
    trainer = train(half, tmp_path / "half", 3)
    assert 0.2 < float(trainer.callback_metrics["train_anchor_normalized_entropy"]) <= 1
    assert "train_enhanced_loss" not in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=False)["state_dict"]
    assert saved.keys() == make_model(**ALONE).state_dict().keys()
    resumed = second_stage(teacher)
    assert train(resumed, tmp_path / "resumed", 5, ckpt_path=tmp_path / "half.ckpt").global_step == 5
    name = "encoder.layers.0.norm_out.weight"
    assert not torch.equal(resumed.state_dict()[name], saved[name])
    labels = [model.eval().extract_labels(*make_batch()[:2]).anchor for model in (half, resumed)]
    assert torch.equal(*labels)  # independent of the student's training


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def relabelled(teacher, tmp_path_factory):
    """A model's .nemo and labels; its teacher's file is gone."""
    folder = tmp_path_factory.mktemp("relabelled")
    shutil.copy(teacher, folder / "gone.pt")
    model = second_stage(folder / "gone.pt").eval()
    labels = model.extract_labels(*make_batch()[:2]).anchor
    model.save_to(str(folder / "model.nemo"))
    assert model.cfg.birq.relabelling.teacher == str(folder / "gone.pt")  # as before
    (folder / "gone.pt").unlink()
    return folder / "model.nemo", labels


def test_nemo_file_carries_its_teacher(relabelled, tmp_path):
    path, labels = relabelled
    shutil.copy(path, tmp_path / "first.nemo")
    model = BiRQModel.restore_from(str(tmp_path / "first.nemo")).eval()
    assert torch.equal(model.extract_labels(*make_batch()[:2]).anchor, labels)
    (tmp_path / "first.nemo").unlink()
    model.save_to(str(tmp_path / "second.nemo"))
    again = BiRQModel.restore_from(str(tmp_path / "second.nemo")).eval()
    assert torch.equal(again.extract_labels(*make_batch()[:2]).anchor, labels)
    config = read_config(tmp_path / "second.nemo")
    assert config.birq.relabelling.teacher.startswith("nemo:") and "gone" not in str(config)


def test_stock_nemo_opens_the_file(relabelled, tmp_path):
    path, _ = relabelled
    stock = SpeechEncDecSelfSupervisedModel.restore_from(str(path), strict=True)
    stock.save_to(str(tmp_path / "stock.nemo"))
    with pytest.raises(FileNotFoundError, match=r"relabelling\.teacher=nemo:\w+_birq_teacher\.pt"):
        BiRQModel.restore_from(str(tmp_path / "stock.nemo"))


def test_what_follows_pretraining_takes_the_file(relabelled, tmp_path):
    path, _ = relabelled
    model, trainer = build(config("ctc_char", path, tmp_path, "trainer.max_steps=2"))
    source = BiRQModel.restore_from(str(path)).state_dict()
    name = "encoder.layers.2.feed_forward1.linear1.weight"
    assert torch.equal(model.state_dict()[name], source[name])
    trainer.fit(model)
    assert trainer.global_step == 2 and not torch.equal(model.state_dict()[name], source[name])
    assert "birq_teacher.pt" in strip(path).removed


def test_checkpoint_of_another_teacher_is_refused(teacher, clustering, tmp_path):
    model = second_stage(teacher)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=0)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    opened = BiRQModel.load_from_checkpoint(str(tmp_path / "model.ckpt"), weights_only=False)
    assert opened.teacher.file.checksum == clustering.file.checksum
    content = torch.load(tmp_path / "model.ckpt", weights_only=False)
    with pytest.raises(ValueError, match=rf"{clustering.file.checksum}.*no teacher.*relabelling\.teacher"):
        make_model(**ALONE).on_load_checkpoint(content)
    other = copy.copy(clustering.file)
    object.__setattr__(other, "centroids", clustering.file.centroids.flip(0))
    object.__setattr__(other, "checksum", other.found_checksum())
    other.save(tmp_path / "other.pt")
    with pytest.raises(ValueError, match=f"{clustering.file.checksum}.*{other.checksum}"):
        second_stage(tmp_path / "other.pt").on_load_checkpoint(content)
    with pytest.raises(ValueError, match=rf"other\.pt.*{other.checksum}.*{clustering.file.checksum}"):
        second_stage(tmp_path / "other.pt", birq__relabelling__checksum=clustering.file.checksum)


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_clusters_are_those_of_the_frames(clustering, opened, data):
    """Each centroid is about the mean of its frames, and their use equals the counts."""
    speech = SpeechDataset(data.indexes, SAMPLE_RATE)
    frames = [compute_features(opened, speech[[row]], [LAYER], torch.float32)[0] for row in range(COUNT)]
    hidden = np.concatenate([one[f"layer_{LAYER}"] for one in frames]).astype(np.float64)
    centroids = clustering.file.centroids.numpy().astype(np.float64)
    labels = pairwise_distances_argmin(hidden, centroids)
    share = np.bincount(labels, minlength=CLUSTERS) / len(labels)
    assert clustering.frames == len(hidden) and clustering.utterances == COUNT
    assert clustering.use.coverage == np.mean(share > 0)
    present = share[share > 0]
    assert clustering.use.perplexity == pytest.approx(np.exp(-np.sum(present * np.log(present))), rel=0.01)
    within = ((hidden - centroids[labels]) ** 2).sum()
    means = np.stack([hidden[labels == code].mean(0) if share[code] else centroids[code] for code in range(CLUSTERS)])
    assert within <= 1.1 * ((hidden - means[labels]) ** 2).sum()
    assert within < 0.5 * ((hidden - hidden.mean(0)) ** 2).sum()  # they say something


# --- bad input --------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(teacher):
    with pytest.raises(ValueError, match=r"\b20 clusters.*num_codes=24.*model\.birq\.quantizer\.num_codes=20"):
        second_stage(teacher, birq__quantizer__num_codes=24, decoder__num_classes=24)
    with pytest.raises(ValueError, match=r"enhanced_weight=0\.7.*\b0 .*model\.birq\.relabelling\.teacher"):
        second_stage(teacher, birq__loss__enhanced_weight=0.7)
    with pytest.raises(ValueError, match=r"num_books=2.*\b1 .*model\.birq\.relabelling\.teacher"):
        second_stage(teacher, birq__quantizer__num_books=2, decoder__num_decoders=2)
    with pytest.raises(ValueError, match=r"model\.preprocessor\.features=40.*\b20\b"):
        second_stage(teacher, preprocessor__features=40, encoder__feat_in=40)
    with pytest.raises(ValueError, match=r"model\.encoder\.subsampling_factor=8.*\b4\b"):
        second_stage(teacher, encoder__subsampling_factor=8)
    second_stage(teacher, preprocessor__dither=1e-5, preprocessor__pad_to=0)  # change no label


def test_files_that_are_no_teacher(teacher, first_stage, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt.*birq cluster-labels"):
        second_stage(tmp_path / "none.pt")
    (tmp_path / "torn.pt").write_bytes(teacher.read_bytes()[:5000])
    for path in (tmp_path / "torn.pt", first_stage):
        with pytest.raises(ValueError, match=rf"(?s){path.name}.*birq cluster-labels"):
            read_teacher_file(path)
    content = torch.load(teacher, weights_only=True)
    content["weights"]["layers.0.norm_out.weight"][0] += 1e-3
    torch.save(content, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=r"damaged\.pt.*checksum"):
        read_teacher_file(tmp_path / "damaged.pt")
    torch.save({"codebook": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt.*birq cluster-labels"):
        read_teacher_file(tmp_path / "other.pt")


def test_audio_that_does_not_fit_is_refused():
    opened = LoadedEncoder(make_model())
    with pytest.raises(ValueError, match=r"--clusters 100\b.*\b2 .*\b50\b"):
        check_size(opened, 2.0, 100)
    with pytest.raises(ValueError, match=r"\b10000000\.0 h\b.*GiB.*--hours \d"):
        check_size(opened, 3.6e10, 100)


# --- the scripts, as a user runs them ---------------------------------------------------------------------------------


def test_cluster_labels_as_a_user(first_stage, manifest, clustering, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "teacher.pt"
    arguments = ["--layer", 2, "--clusters", CLUSTERS, "--manifest", manifest, "--workers", 0, "--out", out]

    def script(*changed):
        monkeypatch.setattr(sys, "argv", ["cluster_labels.py", str(first_stage), *map(str, [*arguments, *changed])])
        runpy.run_path(str(ROOT / "scripts" / "cluster_labels.py"), run_name="__main__")

    script()
    printed = capsys.readouterr().out
    assert f"{CLUSTERS} clusters of layer 2" in printed and f"{COUNT} utterances" in printed and "perplexity" in printed
    assert f"model.birq.relabelling.teacher={out} model.birq.quantizer.num_codes={CLUSTERS}" in printed
    assert read_teacher_file(out).checksum == clustering.file.checksum  # the same seed, the same teacher
    assert TeacherLabeler(read_teacher_file(out)).num_clusters == CLUSTERS
    with pytest.raises(SystemExit, match=r"cluster_labels\.py: .*teacher\.pt.*--out"):
        script()
    with pytest.raises(SystemExit, match=r"layers.*4.*1 to 3"):
        script("--out", tmp_path / "b.pt", "--layer", 4)
    with pytest.raises(SystemExit, match="--clusters 99999"):
        script("--out", tmp_path / "b.pt", "--clusters", 99999)
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.system
def test_second_stage_as_a_user(tmp_path):
    """The first model has the front end of the scripts; its quality does not matter here."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny", [*SMALL, "model.train_ds=null", "model.validation_ds=null"])
    first = LoadedEncoder(BiRQModel(cfg.model).eval())
    data = open_data(str(CORPUS / "train"), None, SAMPLE_RATE)
    with ProgressBars(disable=True) as progress:
        cluster(first, data, 1, 64, progress, "first.nemo", hours=0.03).file.save(tmp_path / "teacher.pt")
    printed = pretrain(
        tmp_path, f"model.birq.relabelling.teacher={tmp_path}/teacher.pt", "model.birq.loss.enhanced_weight=0",
        "model.birq.loss.head=shared", "trainer.max_steps=8", "trainer.val_check_interval=8",
    )  # fmt: skip
    lines = log_lines(printed)
    assert [step for step, _ in lines] == [0, 3, 7] and "enhanced" not in lines[-1][1]
    (tmp_path / "teacher.pt").unlink()
    path = next(tmp_path.rglob("small.nemo"))
    assert BiRQModel.restore_from(str(path)).teacher.num_clusters == 64
    assert "labels of an earlier model" in (path.parent / "README.md").read_text()
    assert str(tmp_path) not in str(read_config(path).birq) + str(read_config(path).pretraining)
