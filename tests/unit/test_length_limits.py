"""Limits of length that leave out most of the data: the check before training and the start of training judge them."""

import json

import numpy as np
import pytest
from omegaconf import OmegaConf

from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.length_limits import find_left_out, find_left_out_of_loader
from nemo_birq.evaluation.preflight import measure as preflight
from nemo_birq.evaluation.preflight.report import length_lines
from tests.helpers.models import SAMPLE_RATE, make_model
from tests.helpers.shards import make_shards, noise, write

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Manifest of two hundred utterances of 0.5 to 4.48 s, and one of 9 s."""
    folder = tmp_path_factory.mktemp("lengths")
    write(folder / "a.wav", noise(9.0))
    durations = [*(round(0.5 + 0.02 * i, 2) for i in range(200)), 9.0]
    lines = [json.dumps({"audio_filepath": "a.wav", "duration": duration}) for duration in durations]
    (folder / "files.json").write_text("\n".join(lines))
    return folder / "files.json"


def load(manifest, **changes):
    node = {"manifest_filepath": str(manifest), "use_lhotse": True, "batch_duration": 20.0, "num_workers": 0}
    return build_dataloader(OmegaConf.create(node | changes), SAMPLE_RATE, 0, 1, training=True)


def test_shares_and_suggestions():
    durations = np.array([1.0] * 90 + [10.0] * 9 + [0.101])
    short, long = find_left_out(durations, 2.0, 9.0)
    assert (short.key, short.utterance_share, short.enough) == ("min_duration", 0.91, 0.1)
    assert (long.key, long.utterance_share, long.enough) == ("max_duration", 0.09, 10.0)
    assert short.hour_share == pytest.approx(90.101 / 180.101) and long.hour_share == pytest.approx(90 / 180.101)
    assert short.is_too_much and long.is_too_much  # the second by its hours
    assert find_left_out(durations, 0.1, 10.0) == []
    meetings = find_left_out(np.array([0.4] * 40 + [10.0] * 60), 0.8, 30.0)  # many single words
    assert [entry.is_too_much for entry in meetings] == [False]


TOO_MANY = "leaves out 62.2% of the utterances, 81.3% of the hours"
BINS = {"bucket_duration_bins": [1.0, 2.0], "bucket_batch_size": [4, 2]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_duration": 5.0}, "min_duration=5 leaves out 99.5% of the utterances, 98.2% of the hours: min_duration=0.54"),
        ({"max_duration": 2.0}, f"max_duration=2 {TOO_MANY}: max_duration=9 keeps all"),
        (BINS, f"bucket_duration_bins ends with 2 and {TOO_MANY}: a last entry of 9"),
    ],
)
def test_training_begins_with_a_warning(manifest, changes, said, caplog):
    loader = load(manifest, **changes)
    assert said in caplog.text
    model = make_model(**{f"train_ds__{key}": value for key, value in changes.items()})
    result = preflight.measure(model, loader, minutes=0.05)
    failures = [failure for failure in result.failures(model) if "leaves out" in failure]
    assert len(failures) == 1 and failures[0].startswith(f"model.train_ds.{said[:20]}") and length_lines(result) == []


def test_a_few_utterances_are_no_fault(manifest, caplog):
    loader = load(manifest, min_duration=0.8, max_duration=8.0)
    assert "takes" not in caplog.text
    result = preflight.measure(make_model(), loader, minutes=0.05)
    assert not [failure for failure in result.failures(make_model()) if "leaves out" in failure]
    assert length_lines(result) == [
        "model.train_ds.min_duration=0.8 leaves out 7.5% of the utterances, 1.9% of the hours",
        "model.train_ds.max_duration=8 leaves out 0.5% of the utterances, 1.8% of the hours",
    ]


def test_a_stream_of_shards_is_judged_alike(tmp_path, caplog):
    make_shards(tmp_path)  # eight clips of 1 to 1.7 s in two shards
    changes = {
        "manifest_filepath": f"{tmp_path}/sharded_manifests/manifest__OP_0..1_CL_.json", "use_lhotse": False,
        "is_tarred": True, "tarred_audio_filepaths": f"{tmp_path}/audio__OP_0..1_CL_.tar", "batch_size": 1,
    }  # fmt: skip
    loader = load(None, **changes, min_duration=1.65)
    assert "min_duration=1.65 leaves out 87.5% of the utterances" in caplog.text
    assert [entry.key for entry in find_left_out_of_loader(loader)] == ["min_duration"]
    with pytest.raises(ValueError, match=r"min_duration=5 leaves out 100\.0%.*min_duration=1 keeps"):
        load(None, **changes, min_duration=5.0)


def test_everything_left_out_is_an_error_with_a_value_that_helps(manifest):
    with pytest.raises(ValueError, match=r"files\.json is between.*min_duration=10 leaves out 100\.0%.*min_duration=0\.54"):
        load(manifest, min_duration=10.0)
