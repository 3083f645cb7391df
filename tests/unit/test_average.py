"""The mean of several checkpoints of a run, as one .nemo."""

import pytest
import torch
from click.testing import CliRunner
from nemo.core import ModelPT

from nemo_birq import BiRQModel, cli
from nemo_birq.export.average import average_weights
from tests.helpers.models import make_batch, make_model, trained_model
from tests.helpers.scoring_models import make_ctc

pytestmark = pytest.mark.unit


def checkpoint(model: ModelPT, path):
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": {"cfg": model.cfg}}, path)
    return path


def test_the_mean_of_weights_in_a_file_of_the_same_labels(tmp_path):
    before = trained_model()
    before.save_to(str(tmp_path / "run.nemo"))
    models = [make_model(seed=seed) for seed in range(3)]
    paths = [checkpoint(model, tmp_path / f"{number}.ckpt") for number, model in enumerate(models)]
    (tmp_path / "README.md").write_text("of the run")  # the card of a run is beside its .nemo
    files = [str(path) for path in (tmp_path / "run.nemo", *paths)]
    done = CliRunner().invoke(cli.main, ["average", *files, "--out", str(tmp_path / "mean.nemo")])
    assert done.exit_code == 0, done.output
    found = BiRQModel.restore_from(str(tmp_path / "mean.nemo")).eval()
    for name, value in found.state_dict().items():
        wanted = torch.stack([model.state_dict()[name].double() for model in models]).mean(0)
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(value, before.state_dict()[name])
    batch = make_batch()
    own, old = (model.eval().extract_labels(batch.signal, batch.signal_length) for model in (found, before))
    assert torch.equal(own.anchor, old.anchor)


def test_a_recognizer_is_averaged_too(tmp_path):
    model = make_ctc()
    model.save_to(str(tmp_path / "ctc.nemo"))
    path = checkpoint(model, tmp_path / "a.ckpt")
    weights = average_weights(tmp_path / "ctc.nemo", [path, path])
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    checkpoint(make_model(), tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"b\.ckpt is not a checkpoint of the model in .*ctc\.nemo: \d+ tensors differ"):
        average_weights(tmp_path / "ctc.nemo", [tmp_path / "b.ckpt"])
