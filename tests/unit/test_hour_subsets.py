"""The draw of hours that label quality, probes and clustering share."""

import json

import numpy as np
import pytest

from nemo_birq.data.subset import draw_hours
from nemo_birq.evaluation.label_quality.utterances import read_utterances
from nemo_birq.evaluation.probing.data import open_set
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.paths import CORPUS

MANIFEST = CORPUS / "validation" / "validation.json"
CTM = CORPUS / "validation" / "phones.ctm"


@pytest.mark.unit
def test_a_draw_of_hours():
    durations = np.full(100, 36.0)
    rows = draw_hours(durations, 0.2, seed=1)
    assert len(set(rows)) == 20 and rows == sorted(rows) == draw_hours(durations, 0.2, seed=1)
    assert rows != draw_hours(durations, 0.2, seed=2) and draw_hours(durations, None) == list(range(100))


@pytest.mark.unit
def test_the_last_utterance_crosses_the_limit():
    durations = np.random.default_rng(3).uniform(1, 20, 200)
    for hours in (1e-6, 0.01, 0.1, 0.3):
        rows = draw_hours(durations.tolist(), hours)
        drawn = [row for row in np.random.default_rng(0).permutation(200).tolist() if row in set(rows)]
        assert durations[rows].sum() >= 3600 * hours > durations[drawn[:-1]].sum()
    assert draw_hours(durations, 100.0) == list(range(200))


@pytest.mark.unit
def test_label_quality_draws_by_name_whatever_the_order_of_the_manifest(tmp_path):
    lines = [json.loads(line) for line in MANIFEST.read_text().splitlines()]
    lines = [line | {"audio_filepath": str(MANIFEST.parent / line["audio_filepath"])} for line in lines]
    (tmp_path / "reversed.json").write_text("\n".join(map(json.dumps, reversed(lines))))
    drawn = read_utterances(MANIFEST, CTM, hours=0.02)
    assert list(read_utterances(tmp_path / "reversed.json", CTM, hours=0.02).lines) == list(drawn.lines)
    assert 72 <= drawn.seconds < 80

    by_name = sorted(lines, key=lambda line: line["audio_filepath"])
    (tmp_path / "sorted.json").write_text("\n".join(map(json.dumps, by_name)))
    probed, _ = open_set(str(tmp_path / "sorted.json"), "text", str(CTM), 0.02, SAMPLE_RATE, "train")
    assert {line["audio_filepath"] for line in probed.lines} == {line["audio_filepath"] for line in drawn.lines.values()}
