"""Noise and other speakers in the input of the masked pass, with the labels of the clean signal."""

import json

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from nemo_birq.config_checks.mixing import MixingSettings, read_mixing
from nemo_birq.data.dataset import PlannedRows, SpeechDataset
from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.index import open_index
from nemo_birq.data.mixing import SpeechMixing
from nemo_birq.data.sources import Source
from nemo_birq.losses.bilevel import Weights
from nemo_birq.modules.noisy_input import noisy_features
from tests.helpers.models import SAMPLE_RATE, generator, make_batch, make_model

pytestmark = pytest.mark.unit
ALL = {"prob": 1.0, "noise_ratio": 0.0, "min_mix_rate": 0.5, "max_mix_rate": 0.5}


def settings(**values) -> MixingSettings:
    return MixingSettings(**(ALL | values))


def signals(*seconds: float) -> list[np.ndarray]:
    """Signals whose parts all differ."""
    rng = np.random.default_rng(9)
    return [rng.normal(0, 1 + number, int(one * SAMPLE_RATE)).astype(np.float32) for number, one in enumerate(seconds)]


def level(signal: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.square(signal, dtype=float).sum() / np.square(other, dtype=float).sum()))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A manifest of two clips, of which the second is shorter than what is to be covered."""
    folder = tmp_path_factory.mktemp("noise")
    lines = []
    for name, seconds in (("long", 3.0), ("short", 0.25)):
        rng = np.random.default_rng(len(name))
        soundfile.write(folder / f"{name}.wav", rng.normal(0, 0.1, int(seconds * SAMPLE_RATE)), SAMPLE_RATE)
        lines.append({"audio_filepath": f"{name}.wav", "duration": seconds})
    (folder / "noise.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "noise.json"


def test_another_speaker_at_the_level_asked_for():
    clean = signals(2.0, 1.5, 3.0)
    mixing = SpeechMixing(settings(min_r_speech=3.0, max_r_speech=3.0), None)
    for number, noisy in enumerate(mixing(clean, np.random.default_rng(0))):
        added = noisy - clean[number]
        assert level(clean[number], added) == pytest.approx(3.0, abs=1e-3)
        part = added[np.flatnonzero(added)[0] : np.flatnonzero(added)[-1] + 1]
        assert len(part) == len(clean[number]) // 2
        others = [other for index, other in enumerate(clean) if index != number]
        peaks = [np.correlate(other, part[:200]) / np.linalg.norm(other) for other in others]
        source = others[int(np.argmax([peak.max() for peak in peaks]))]
        start = int(np.argmax(np.correlate(source, part[:200])))
        found = (
            np.resize(source[start:], len(part)) if start + len(part) > len(source) else source[start : start + len(part)]
        )
        gain = np.linalg.norm(part[:200]) / np.linalg.norm(found[:200])
        np.testing.assert_allclose(part, gain * found, atol=1e-4)  # a part of one other utterance, and nothing else


@pytest.mark.parametrize("segments", [1, 4])
def test_noise_at_the_level_asked_for(segments, noise):
    dataset = SpeechDataset([open_index(Source(str(noise), None, None))], SAMPLE_RATE)
    ranges = {"min_r_noise": -4.0, "max_r_noise": -4.0, "min_num_segments": segments, "max_num_segments": segments}
    mixing = SpeechMixing(settings(noise_ratio=1.0, **ranges), dataset)
    clean = signals(2.0, 1.1)
    for before, noisy in zip(clean, mixing(clean, np.random.default_rng(1)), strict=True):
        assert level(before, noisy - before) == pytest.approx(-4.0, abs=1e-3)
        assert (noisy != before).sum() == pytest.approx(len(before) / 2, abs=20)


def test_shares_are_those_of_the_settings(noise):
    """Counts the mixed ones of 3,000 signals, and those of them that have noise in place of speech, a constant here."""
    dataset = SpeechDataset([open_index(Source(str(noise), None, None))], SAMPLE_RATE)
    mixing = SpeechMixing(settings(prob=0.4, noise_ratio=0.25, min_mix_rate=1.0, max_mix_rate=1.0), dataset)
    rng, clean = np.random.default_rng(2), [np.full(64, 1.0, np.float32), np.full(64, 1.0, np.float32)]
    added = [noisy - 1.0 for _ in range(1500) for noisy in mixing(clean, rng)]
    mixed = [one for one in added if np.any(one)]
    assert len(mixed) / 3000 == pytest.approx(0.4, abs=0.03)
    assert np.mean([np.ptp(one) > 1e-6 for one in mixed]) == pytest.approx(0.25, abs=0.04)


def test_one_utterance_alone_gets_no_other_speaker():
    clean = signals(1.0)
    assert SpeechMixing(settings(), None)(clean, np.random.default_rng(0))[0] is clean[0]


def test_the_same_position_is_mixed_the_same(noise):
    node = OmegaConf.create(
        {
            "use_lhotse": True, "manifest_filepath": str(noise), "batch_size": 2, "shuffle": True, "seed": 7,
            "noise_manifest": str(noise), "batch_augmentor": ALL | {"noise_ratio": 0.5},
        }
    )  # fmt: skip

    def batches(skip: int = 0, workers: int = 0):
        loader = build_dataloader(OmegaConf.merge(node, {"num_workers": workers}), SAMPLE_RATE, 0, 1, training=True)
        loader.sampler.epoch = skip
        found = iter(loader)
        return [next(found) for _ in range(3 - skip)]

    first = batches()
    assert not torch.equal(first[0].noisy, first[0].signal[first[0].mixed])
    for wanted, found in zip(first, batches(workers=1), strict=True):
        assert torch.equal(wanted.noisy, found.noisy)
    for wanted, found in zip(first[2:], batches(skip=2), strict=True):  # an epoch has one batch
        assert torch.equal(wanted.noisy, found.noisy)
    assert not torch.equal(first[0].noisy, first[1].noisy)
    rows = PlannedRows([0, 1], (0, 0))
    assert SpeechDataset([open_index(Source(str(noise), None, None))], SAMPLE_RATE)[rows].noisy is None


def test_labels_are_those_of_the_clean_signal():
    """The input of the masked pass is the noisy signal: the encoder's output is that of a batch of noisy signals."""
    model, batch = make_model(birq__loss__head="separate").train(), make_batch()
    signal = batch.signal + 0.1 * torch.randn(batch.signal.shape, generator=generator(3))
    noisy = batch._replace(noisy=signal, mixed=list(range(len(signal))))
    weights = Weights(0.7, 1.3)

    def terms(given):
        torch.manual_seed(0)  # of dropout
        return model.losses(given, weights, generator(1), observe_labels=False, over_ranks=True).terms

    clean, mixed, swapped = terms(batch), terms(noisy), terms(batch._replace(signal=signal))
    assert torch.equal(mixed["anchor_labels"], clean["anchor_labels"])
    torch.testing.assert_close(mixed["targets"].units, clean["targets"].units)
    torch.testing.assert_close(mixed["hidden"], swapped["hidden"])
    assert not torch.equal(swapped["anchor_labels"], clean["anchor_labels"])
    assert not torch.allclose(mixed["hidden"], clean["hidden"])


def test_only_mixed_signals_pass_the_preprocessor_again():
    """The features are those of a batch in which these signals replace the clean ones."""
    model, batch = make_model(preprocessor__dither=0.0).eval(), make_batch()
    whole = batch.signal.clone()
    whole[1] += 0.1 * torch.randn(whole.shape[1], generator=generator(3))
    features, wanted = (
        model.preprocessor(input_signal=signal, length=batch.signal_length)[0] for signal in (batch.signal, whole)
    )
    found = noisy_features(model.preprocessor, features, batch._replace(noisy=whole[1:2], mixed=[1]))
    torch.testing.assert_close(found, wanted)
    assert torch.equal(found[0], features[0]) and not torch.equal(found[1], features[1])
    assert noisy_features(model.preprocessor, features, batch) is None


def test_a_batch_has_the_rows_of_its_mixed_signals(noise):
    index = open_index(Source(str(noise), None, None))
    mixing = SpeechMixing(settings(prob=0.5, noise_ratio=1.0), SpeechDataset([index], SAMPLE_RATE))
    dataset, clean = SpeechDataset([index], SAMPLE_RATE, mixing), SpeechDataset([index], SAMPLE_RATE)
    sizes = set()
    for number in range(12):
        rows = PlannedRows([0, 1], (0, number))
        batch, plain = dataset[rows], clean[rows]
        assert torch.equal(batch.signal, plain.signal)
        sizes.add(0 if batch.mixed is None else len(batch.mixed))
        if batch.mixed is not None:
            assert batch.noisy.shape == (len(batch.mixed), plain.signal.shape[1])
            assert all(not torch.equal(*pair) for pair in zip(batch.noisy, plain.signal[batch.mixed], strict=True))
    assert sizes == {0, 1, 2}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"batch_augmentor": {"prob": 1.5}}, r"model\.train_ds\.batch_augmentor\.prob=1\.5 is not allowed"),
        ({"batch_augmentor": ALL | {"min_r_speech": 9}}, r"max_r_speech=5\.0 is not allowed: .* at least min_r_speech=9"),
        ({"batch_augmentor": ALL | {"_target_": "os.system"}}, r"batch_augmentor\._target_=os\.system is not allowed"),
        ({"batch_augmentor": ALL | {"noise_ratio": 0.5}}, r"noise_manifest=null is not allowed: .* a manifest of noise"),
        ({"noise_manifest": "noise.json"}, r"noise_manifest=noise\.json is not allowed: it must be null without"),
        ({"batch_augmentor": ALL, "use_lhotse": False}, r"use_lhotse=false is not allowed: it must be true with"),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_refused(node, said):
    with pytest.raises(ValueError, match=said):
        read_mixing({"use_lhotse": True} | node, "model.train_ds")
