"""Utterances that respect the limits of duration, but do not fit into memory, are named before they end the process."""

import json
import weakref

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.longest import find_longest, find_longest_of_loader
from nemo_birq.evaluation.label_quality.utterance_view import view_utterance
from nemo_birq.evaluation.label_quality.utterances import open_speech
from nemo_birq.extraction.clustering import collect_frames
from nemo_birq.extraction.data import open_data
from nemo_birq.extraction.memory import check_longest
from nemo_birq.loading import LoadedEncoder
from nemo_birq.modules.attention_memory import attention_bytes, check_attention_fits
from nemo_birq.pretraining.memory import check_longest_batches
from nemo_birq.scoring.transcription import transcribe
from nemo_birq.utils import memory
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.models import BASE, SAMPLE_RATE, make_model
from tests.helpers.scoring_models import make_ctc
from tests.helpers.shards import make_shards, noise, write

pytestmark = pytest.mark.unit
HOURS = 7200.0


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two short files, and one that lasts two hours; only its length is read."""
    folder = tmp_path_factory.mktemp("long")
    lines = []
    for name, seconds in (("short", 1.0), ("meeting", HOURS), ("other", 2.0)):
        write(folder / f"{name}.wav", noise(1.0))
        lines.append(json.dumps({"audio_filepath": f"{name}.wav", "duration": seconds, "text": "a"}))
    (folder / "files.json").write_text("\n".join(lines))
    return folder / "files.json"


class PeakMemory(TorchDispatchMode):
    """Measures the most bytes of tensors that exist at a time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.seen = 0, 0, weakref.WeakValueDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.seen:
                self.seen[storage._cdata] = storage
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
                self.peak = max(self.peak, self.live)
        return result

    def _free(self, size: int) -> None:
        self.live -= size


@pytest.mark.parametrize("training", [False, True])
def test_the_estimate_is_what_the_encoder_takes(model, training):
    frames = 800
    features = torch.randn(1, BASE.encoder.feat_in, frames * BASE.encoder.subsampling_factor)
    encoder = model.encoder.train(training)
    with PeakMemory() as found, torch.set_grad_enabled(training):
        output, _ = encoder(audio_signal=features, length=torch.tensor([features.shape[2]]))
        if training:
            output.sum().backward()
    encoder.eval()
    assert found.peak == pytest.approx(attention_bytes(encoder, output.shape[2], training), rel=0.3)


def test_attention_without_a_square_is_not_limited():
    local = make_model(encoder__self_attention_model="rel_pos_local_attn", encoder__att_context_size=[16, 16])
    assert attention_bytes(local.encoder, 1e6, training=True) == 0
    check_attention_fits(local, "x", HOURS, "", training=True)


def test_the_length_that_is_named_fits(model):
    with pytest.raises(ValueError, match=r"^x lasts 7200 s: .*\b180,000 frames.* GiB.*at most (\d+) s$") as error:
        check_attention_fits(model, "x", HOURS, "at most {seconds} s")
    seconds = float(str(error.value).split()[-2])
    check_attention_fits(model, "x", seconds, "")
    with pytest.raises(ValueError, match="lasts"):
        check_attention_fits(model, "x", seconds + 1, "")
    with pytest.raises(ValueError, match="lasts"):  # a backward pass keeps more
        check_attention_fits(model, "x", seconds, "", training=True)


def test_what_passes_whole_utterances_through_an_encoder_names_the_file(model, manifest):
    said = r"meeting\.wav lasts 7200 s.*Remove utterances longer than \d+ s from the manifest.*--max-duration"
    data = open_data(str(manifest), None, SAMPLE_RATE)
    with pytest.raises(ValueError, match=said):
        check_longest(model, data)
    check_longest(model, data, [0, 2])
    with pytest.raises(ValueError, match=said):
        collect_frames(LoadedEncoder(model), data, [0, 1], 1, ProgressBars(disable=True), 60.0, 0)
    with pytest.raises(ValueError, match=said):
        view_utterance(model, open_speech(manifest), "meeting", [], [], 0)


def test_scoring_names_the_file(manifest):
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    with pytest.raises(ValueError, match=r"files\.json: meeting\.wav lasts 7200 s.*Cut it into parts of at most \d+ s"):
        transcribe(make_ctc(), manifest, lines, 2, None, lambda done: None)


def test_training_names_file_and_key(manifest, tmp_path, caplog):
    config = OmegaConf.create({"use_lhotse": True, "manifest_filepath": str(manifest), "batch_duration": 30.0})
    model, cpu = make_model(), torch.device("cpu")
    model._train_dl = build_dataloader(config, SAMPLE_RATE, 0, 1, training=True)
    assert r"1 utterances are longer than batch_duration=30.0, up to 7200.00 s" in caplog.text
    assert "meeting.wav" in caplog.text and "max_duration=30.0" in caplog.text
    with pytest.raises(ValueError, match=r"meeting\.wav lasts 7200 s.*model\.train_ds\.max_duration=\d+"):
        check_longest_batches(model, cpu)
    caplog.clear()
    model._validation_dl = model._train_dl
    model._train_dl = build_dataloader(OmegaConf.merge(config, {"max_duration": 20.0}), SAMPLE_RATE, 0, 1, training=True)
    assert "batch_duration" not in caplog.text and find_longest_of_loader(model._train_dl).seconds == 2.0
    with pytest.raises(ValueError, match=r"meeting\.wav lasts 7200 s.*model\.validation_ds\.max_duration=\d+"):
        check_longest_batches(model, cpu)
    model._validation_dl = [model._train_dl]
    check_longest_batches(model, cpu)


def test_the_longest_of_shards_and_of_a_stream(tmp_path):
    folder = make_shards(tmp_path / "shards")
    node = {
        "manifest_filepath": f"{folder}/sharded_manifests/manifest__OP_0..1_CL_.json",
        "tarred_audio_filepaths": f"{folder}/audio__OP_0..1_CL_.tar",
        "batch_size": 2,
    }
    stream = OmegaConf.create(node | {"use_lhotse": False, "is_tarred": True, "max_duration": 1.55})
    found = find_longest_of_loader(build_dataloader(stream, SAMPLE_RATE, 0, 1, training=True))
    assert found.name.endswith("clip5.wav") and found.seconds == 1.5
    loader = build_dataloader(OmegaConf.create(node | {"use_lhotse": True}), SAMPLE_RATE, 0, 1, training=False)
    indexes = loader.dataset.indexes
    assert find_longest(indexes * 2).name == f"clip7.wav of {folder}/audio_1.tar"  # dealt out one after the other
    assert find_longest(indexes * 2, [0, 8 + 1]).seconds == max(indexes[0].durations[0], indexes[0].durations[1])


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    whole = memory.total_memory_bytes()
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("1000000\n")
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "max", tmp_path / "none"))
    assert memory.total_memory_bytes() >= whole
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "max", tmp_path / "limit"))
    assert memory.total_memory_bytes() == 1_000_000
