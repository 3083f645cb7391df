"""The public way to open a model: from the package, without running code of the file."""

import pytest
import torch

import nemo_birq
from nemo_birq import BiRQModel, load_encoder, load_model
from tests.helpers.hostile_files import Bomb
from tests.helpers.models import make_batch, make_model, train

pytestmark = pytest.mark.unit


def test_a_checkpoint_runs_no_code(tmp_path):
    torch.save({"hyper_parameters": {"cfg": make_model().cfg}, "bomb": Bomb(tmp_path / "ran")}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad\.ckpt .*UnpicklingError"):
        load_model(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "bad.ckpt", weights_only=False)  # the bomb works
    assert (tmp_path / "ran").exists()


def test_models_and_encoders_from_both_kinds_of_file(tmp_path):
    model = make_model()
    trainer = train(model, tmp_path / "run", steps=2)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    model.save_to(str(tmp_path / "model.nemo"))
    batch = make_batch()
    expected = model.eval().extract_labels(batch.signal, batch.signal_length)
    for name, steps in (("model.ckpt", 2), ("model.nemo", None)):
        opened = load_model(tmp_path / name)
        assert type(opened) is BiRQModel and not opened.training and opened.trained_steps == steps
        found = opened.extract_labels(batch.signal, batch.signal_length)
        assert torch.equal(found.anchor, expected.anchor) and torch.equal(found.enhanced, expected.enhanced)
        encoder = load_encoder(tmp_path / name)
        assert (encoder.depth, encoder.sample_rate, encoder.step) == (3, 16_000, steps)
        features, length = encoder.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        encoded, _ = encoder.encoder(audio_signal=features, length=length)
        values, _ = opened.extract_features(batch.signal, batch.signal_length)
        torch.testing.assert_close(encoded.transpose(1, 2), values)


def test_public_names_have_docstrings():
    for name in nemo_birq.__all__:
        if name != "__version__":
            assert getattr(nemo_birq, name).__doc__.strip(), name
