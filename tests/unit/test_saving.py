"""Saving and restoring, with this package and without it."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from omegaconf import OmegaConf

from nemo_birq import BiRQModel
from nemo_birq.labels import tensors as label_tensors
from nemo_birq.losses.bilevel import Weights
from tests.helpers.models import generator, make_batch, make_model, trained_model
from tests.helpers.nemo_files import repack

pytestmark = pytest.mark.unit


def state(model, batch):
    model.eval()
    labels = model.extract_labels(batch.signal, batch.signal_length)
    losses = model.losses(batch, Weights(0.7, 1.3), generator(3), observe_labels=False, over_ranks=False)
    return labels, float(losses.loss)


def assert_same(one, two):
    assert torch.equal(one[0].anchor, two[0].anchor) and torch.equal(one[0].enhanced, two[0].enhanced)
    assert one[1] == two[1]


@pytest.mark.parametrize(("normalization", "books"), [("per_feature", 1), ("whiten", 1), ("layer_norm", 1), ("whiten", 2)])
def test_nemo_file_gives_labels_and_losses_again(tmp_path, batch, normalization, books):
    model = trained_model(
        birq__labels__normalization=normalization,
        birq__loss__head="separate",
        birq__quantizer__num_books=books,
        decoder__num_decoders=books,
    )
    expected = state(model, batch)
    model.save_to(str(tmp_path / "one.nemo"))
    again = BiRQModel.restore_from(str(tmp_path / "one.nemo"))
    assert_same(state(again, batch), expected)
    again.save_to(str(tmp_path / "two.nemo"))
    assert_same(state(BiRQModel.restore_from(str(tmp_path / "two.nemo")), batch), expected)
    assert again.cfg.birq.quantizer.tensors is None


TRACKED = {"birq__labels__codebook": "tracked", "birq__labels__code_dim": 12}


@pytest.mark.parametrize("kind", ["nemo", "ckpt"])
def test_tracked_codebook_goes_on_where_it_was(tmp_path, batch, kind):
    model = trained_model(**TRACKED)
    path = str(tmp_path / f"model.{kind}")
    if kind == "nemo":
        model.save_to(path)
        again = BiRQModel.restore_from(path)
    else:
        checkpoint(model, path)
        again = BiRQModel.load_from_checkpoint(path, weights_only=False)
    assert_same(state(again, batch), state(model, batch))
    for one in (model, again):  # the next step moves the codes in the same way
        one.train().losses(make_batch(seed=5), Weights(0.7, 1.3), generator(5), False, True)
    before = trained_model(**TRACKED).enhanced_labeler.quantizer.codebook
    moved = model.enhanced_labeler.quantizer.codebook
    assert not torch.equal(moved, before)
    assert torch.equal(again.enhanced_labeler.quantizer.codebook, moved)


@pytest.mark.parametrize(("trained", "own"), [("tracked", "random"), ("random", "tracked")])
def test_resuming_with_another_kind_of_codebook_is_refused(tmp_path, trained, own):
    path = str(tmp_path / "model.ckpt")
    checkpoint(make_model(birq__labels__codebook=trained), path)
    content = torch.load(path, weights_only=False)
    with pytest.raises(ValueError, match=rf"labels\.codebook={trained}\b.*\b{own}\b"):
        make_model(birq__labels__codebook=own).on_load_checkpoint(content)


def test_file_saved_by_the_stock_class_still_restores(tmp_path, batch, monkeypatch):
    """Projections and weights are the same; only the running statistics are lost, which is reported."""
    model = trained_model().eval()
    model.save_to(str(tmp_path / "ours.nemo"))
    stock = SpeechEncDecSelfSupervisedModel.restore_from(str(tmp_path / "ours.nemo"), strict=True)
    stock.save_to(str(tmp_path / "stock.nemo"))
    messages = []
    monkeypatch.setattr("nemo_birq.checkpoint.artifacts.logging.warning", messages.append)
    again = BiRQModel.restore_from(str(tmp_path / "stock.nemo")).eval()
    assert torch.equal(again.extract_labels(*batch[:2]).anchor, model.extract_labels(*batch[:2]).anchor)
    assert again.enhanced_labeler.normalization.num_updates == 0
    assert any("running statistics of layer k" in message for message in messages)


def test_statistics_of_another_normalization_are_refused(tmp_path):
    model = trained_model()
    tensors = label_tensors.collect(model.anchor_labeler, model.enhanced_labeler)
    other = make_model(birq__labels__normalization="whiten")
    with pytest.raises(ValueError, match="running_covariance"):
        label_tensors.restore(tensors, other.anchor_labeler, other.enhanced_labeler)


def test_other_projections_are_refused(tmp_path):
    make_model().save_to(str(tmp_path / "good.nemo"))

    def damage(folder):
        path = next(folder.glob("*birq_label_tensors.pt"))
        tensors = torch.load(path, weights_only=True)
        tensors["enhanced_projection"][0, 0, 0] += 1e-3
        torch.save(tensors, path)

    repack(tmp_path / "good.nemo", tmp_path / "bad.nemo", damage)
    with pytest.raises(ValueError, match="checksum"):
        BiRQModel.restore_from(str(tmp_path / "bad.nemo"))


def test_generator_that_draws_other_projections_is_noticed(tmp_path):
    make_model().save_to(str(tmp_path / "good.nemo"))

    def lose_tensors_and_change_seed(folder):
        next(folder.glob("*birq_label_tensors.pt")).unlink()
        config = OmegaConf.load(folder / "model_config.yaml")
        config.birq.quantizer.seed = 99
        OmegaConf.save(config, folder / "model_config.yaml")

    repack(tmp_path / "good.nemo", tmp_path / "bad.nemo", lose_tensors_and_change_seed)
    with pytest.raises(ValueError, match="checksum"):
        BiRQModel.restore_from(str(tmp_path / "bad.nemo"))


def checkpoint(model, path):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=0)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)


def test_checkpoint_gives_labels_and_losses_again(tmp_path, batch):
    model = trained_model()
    checkpoint(model, tmp_path / "model.ckpt")
    again = BiRQModel.load_from_checkpoint(str(tmp_path / "model.ckpt"), weights_only=False)
    assert_same(state(again, batch), state(model, batch))


def test_checkpoint_with_other_projections_is_refused(tmp_path):
    checkpoint(make_model(), tmp_path / "model.ckpt")
    content = torch.load(tmp_path / "model.ckpt", weights_only=False)
    other = make_model(birq__quantizer__seed=7)
    with pytest.raises(ValueError, match=r"quantizer\.seed=0"):
        other.on_load_checkpoint(content)
    content["birq_label_tensors"]["codebook"][0, 0] *= -1
    with pytest.raises(ValueError, match="checksum"):
        make_model().on_load_checkpoint(content)


def test_a_file_that_cannot_be_completed_leaves_the_old_one(tmp_path, monkeypatch):
    """The disk is full, or the process is killed, in the middle of the archive."""
    path = tmp_path / "model.nemo"
    make_model().save_to(str(path))
    before = path.read_bytes()

    def fail(filename, source_dir):
        Path(filename).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(SaveRestoreConnector, "_make_nemo_file_from_folder", staticmethod(fail))
    with pytest.raises(OSError, match="No space left"):
        make_model(seed=1).save_to(str(path))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["model.nemo"]
