"""The registry of metrics: it is complete, and the documentation and the report agree with it."""

import json
import subprocess
import sys

import pytest

from nemo_birq.monitoring.alarm_rules import MAX_FALL, MIN_GAIN
from nemo_birq.monitoring.metrics import BOTH, GAINS, METRICS, TASKS, logged_tags, markdown_table
from nemo_birq.report.catalogue import SECTIONS, TABLE
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit
PAGE = ROOT / "docs/reading_the_curves.md"
BEGIN, END = "<!-- metrics: begin -->\n", "\n<!-- metrics: end -->"


def test_the_documented_table_is_generated():
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert table == markdown_table(), (
        f"{PAGE} is older than the registry: replace what is between the markers with the output of "
        "python -m nemo_birq.monitoring.metrics"
    )


def test_thresholds_of_the_alarms_are_documented():
    alarms = PAGE.read_text(encoding="utf-8").partition("## Alarms")[2].partition("\n## ")[0]
    assert f"`selection_agreement` < {METRICS['selection_agreement'].healthy_min}" in alarms
    for task in TASKS:
        assert f"`{task}_normalized_entropy` < {METRICS[f'{task}_normalized_entropy'].healthy_min}" in alarms
    assert f"more than {MAX_FALL} below its peak" in alarms and f"less than {MIN_GAIN} nats below" in alarms
    masked, silent = METRICS["masked_fraction"], METRICS["silent_share"]
    assert f"less than {masked.healthy_min:.0%} or more than {masked.healthy_max:.0%} of the frames" in alarms
    assert f"more than {silent.healthy_max:.0%} of the readable utterances" in alarms


def test_every_curve_is_in_a_picture_of_its_unit():
    pictures = {picture.name: picture for section in SECTIONS for picture in section.pictures}
    drawn = set()
    for metric in METRICS.values():
        for curve in metric.curves:
            assert curve.stage in metric.stages
            picture = pictures[curve.picture]
            assert picture.unit == metric.unit, metric.name
            assert metric.tag(curve.stage) in {line.tag for line in picture.lines}
            drawn.add(picture.name)
    assert drawn == pictures.keys()


def test_every_metric_has_a_place_in_the_report():
    pictured = {line.tag for section in SECTIONS for picture in section.pictures for line in picture.lines}
    tabled = {tag for rows in TABLE.values() for row in rows for tag in (row.tag, row.minus)}
    without = logged_tags() - pictured - tabled
    # The sum of two losses says nothing about either, and the second is the same number as the first.
    assert without == {"train_loss", "val_loss", "epoch", "val_anchor_unigram_accuracy", "val_enhanced_unigram_accuracy"}


def test_names_in_the_registry_exist():
    assert {gain.minuend for gain in GAINS} | {gain.subtrahend for gain in GAINS} <= METRICS.keys()
    assert {curve.instead for metric in METRICS.values() for curve in metric.curves} <= METRICS.keys() | {None}
    assert all(metric.stages == BOTH for gain in GAINS for metric in (METRICS[gain.minuend], METRICS[gain.subtrahend]))


def test_meanings_are_one_sentence():
    for metric in METRICS.values():
        assert metric.meaning.endswith(".") and ". " not in metric.meaning and metric.meaning[0].isupper()
        assert metric.stages and set(metric.stages) <= set(BOTH)


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("nemo_birq.monitoring.metrics", ("nemo_birq.monitoring",)),
        ("nemo_birq.report.page", ("nemo_birq.report", "nemo_birq.utils", "nemo_birq.monitoring")),
    ],
)
def test_registry_and_report_import_little(module, allowed):
    """A page is drawn in seconds, without torch and NeMo."""
    code = f"import json, sys, {module}; print(json.dumps([name for name in sys.modules]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not {name.partition(".")[0] for name in loaded} & {"torch", "nemo", "lightning", "lhotse"}
    ours = {name for name in loaded if name.startswith("nemo_birq.")}
    assert {name for name in ours if not name.startswith(allowed)} == set()
    monitoring = {name for name in ours if name.startswith("nemo_birq.monitoring")}
    assert monitoring == {"nemo_birq.monitoring", "nemo_birq.monitoring.metrics"}
