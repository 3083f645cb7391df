"""Narrow-band audio is found by its spectrum and reported with the keys to set, without which its labels are unstable."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soxr
import torch
from click.testing import CliRunner

from nemo_birq.data.bandwidth import find_bandwidth, in_words, narrow_band_share
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.shards.build_command import make_shards
from nemo_birq.evaluation.preflight import measure as preflight
from tests.helpers.models import SAMPLE_RATE, make_model
from tests.helpers.shards import write

pytestmark = pytest.mark.unit


def speech_like(seconds: float, rate: int = SAMPLE_RATE, seed: int = 0, level: float = 0.05) -> np.ndarray:
    """Makes noise whose spectrum falls by 6 dB per octave and whose level varies like syllables, rounded to 16 bits."""
    rng = np.random.default_rng(seed)
    number = int(seconds * rate)
    spectrum = np.fft.rfft(rng.normal(size=number))
    frequency = np.fft.rfftfreq(number, 1 / rate)
    signal = np.fft.irfft(spectrum / np.maximum(frequency, 100), number)
    signal *= 1.05 + np.sin(2 * np.pi * 4 * np.arange(number) / rate)
    return rounded(level * signal / signal.std())


def rounded(signal: np.ndarray) -> np.ndarray:
    return (np.clip(np.rint(signal * 32768), -32768, 32767) / 32768).astype(np.float32)


def resampled(signal: np.ndarray, old: int, new: int = SAMPLE_RATE) -> np.ndarray:
    return rounded(soxr.resample(signal, old, new))


@pytest.mark.parametrize("level", [0.003, 0.05, 0.2])
@pytest.mark.parametrize("seconds", [0.5, 3.0, 20.0])
def test_bandwidth_of_wide_and_telephone_band(level, seconds):
    assert find_bandwidth(speech_like(seconds, level=level), SAMPLE_RATE) >= 7000
    telephone = resampled(speech_like(seconds, 8000, level=level), 8000)
    assert 3500 <= find_bandwidth(telephone, SAMPLE_RATE) <= 4250
    assert find_bandwidth(telephone + np.float32(0.1), SAMPLE_RATE) <= 4250  # an offset changes nothing
    assert find_bandwidth(resampled(speech_like(seconds, 44100, level=level), 44100), SAMPLE_RATE) >= 7000
    assert find_bandwidth(resampled(speech_like(seconds, 11025, level=level), 11025), SAMPLE_RATE) <= 5600
    assert find_bandwidth(speech_like(seconds, 8000, level=level), 8000) >= 3500


def test_clipping_hides_nothing():
    loud = speech_like(3.0, 8000)
    loud = resampled(loud / np.abs(loud).max(), 8000)
    assert find_bandwidth(np.clip(1.02 * loud, -1, 1), SAMPLE_RATE) <= 4000


def test_where_nothing_can_be_said():
    assert find_bandwidth(np.zeros(16000, np.float32), SAMPLE_RATE) is None
    assert find_bandwidth(rounded(1e-5 * np.ones(16000)), SAMPLE_RATE) is None
    assert find_bandwidth(speech_like(0.02), SAMPLE_RATE) is None


def test_shares_and_advice():
    seconds = {4000.0: 30.0, 5500.0: 10.0, 8000.0: 60.0}
    assert narrow_band_share(seconds, 8000) == pytest.approx(0.4) and narrow_band_share(seconds, 3800) == 0.0
    said = in_words(seconds, 8000)
    assert said.startswith("40.0% of the hours") and "highfreq=3800" in said and "model.sample_rate=8000" in said
    assert "highfreq=5200" in in_words({5500.0: 1.0}, 8000) and "sample-rate" not in in_words({5500.0: 1.0}, 8000)
    assert in_words({4000.0: 4.0, 8000.0: 96.0}, 8000) is None and in_words({}, 8000) is None


def test_make_shards_says_the_share(tmp_path):
    for i in range(3):
        write(tmp_path / "in" / f"telephone{i}.wav", speech_like(1.0, 8000, i), 8000)
    write(tmp_path / "in" / "wide.wav", speech_like(1.0))
    for rate, narrow in ((16000, True), (8000, False)):
        out = tmp_path / str(rate)
        arguments = ["folder", str(tmp_path / "in"), "--out", str(out), "--workers", "1", "--sample-rate", str(rate)]
        result = CliRunner(env={"COLUMNS": "300"}).invoke(make_shards, arguments)
        assert result.exit_code == 0 and ("75.0% of the hours are narrow-band" in result.output) == narrow
        hours = json.loads((out / "dataset_card.json").read_text())["bandwidth_hours"]
        assert sum(hours.values()) == pytest.approx(4 / 3600, abs=1e-5)
        assert all(float(hz) <= rate / 2 for hz in hours) and any(float(hz) <= 4000 for hz in hours)


def check(signals: list[np.ndarray], dither: float = 1e-5, **changes):
    model = make_model(
        birq__quantizer__num_codes=512, decoder__num_classes=512, preprocessor__features=40, encoder__feat_in=40,
        preprocessor__dither=dither, **changes,
    )  # fmt: skip
    batch = SpeechBatch(torch.from_numpy(np.stack(signals)), torch.tensor([len(s) for s in signals]), ["a"] * len(signals))
    result = preflight.measure(model, [batch], minutes=1)
    return SimpleNamespace(stability=result.stability, said=result.narrow_band(model), failures=result.failures(model))


def test_the_check_before_training_measures_and_judges_it():
    narrow = [resampled(speech_like(4.0, 8000, seed), 8000) for seed in range(4)]
    wide = check([speech_like(4.0, seed=seed) for seed in range(4)])
    assert wide.stability > 0.97 and wide.said is None and not any("dither" in failure for failure in wide.failures)
    found = check(narrow)
    assert found.stability < 0.8 and found.said.startswith("100.0% of the hours are narrow-band")
    (failure,) = [failure for failure in found.failures if "dither" in failure]
    assert "+model.preprocessor.highfreq=3800" in failure
    without_dither = check(narrow, dither=0.0)
    assert without_dither.stability < 0.8  # rounding noise decides then


@pytest.mark.parametrize("setting", ["mel range", "sample rate"])
def test_the_documented_settings_make_labels_stable(setting):
    if setting == "mel range":
        signals = [resampled(speech_like(4.0, 8000, seed), 8000) for seed in range(4)]
        found = check(signals, preprocessor__highfreq=3800)
    else:
        found = check([speech_like(4.0, 8000, seed) for seed in range(4)], sample_rate=8000, preprocessor__sample_rate=8000)
    assert found.stability >= 0.97 and found.said is None and not any("dither" in failure for failure in found.failures)
