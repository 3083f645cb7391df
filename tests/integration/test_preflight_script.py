"""The check of labels before training, as a user runs it."""

import re

import pytest

from tests.helpers.scripts import DATA, run

pytestmark = pytest.mark.system


def test_script_as_a_user_runs_it(tmp_path):
    """A scale that makes the labels noise gives a status other than 0, the reason, a suggestion and the picture."""
    printed = run(
        "check_labels.py", "--config-name=birq_conformer_tiny", *DATA[:2], "+minutes=1",
        f"+picture={tmp_path}/curve.png", "model.birq.labels.logit_scale=1", fails=True,
    )  # fmt: skip
    assert "unhealthy" in printed and "the enhanced labels are noise" in printed
    suggested = float(
        re.search(r"set model\.birq\.labels\.logit_scale=([\d.]+), which picks it in 60%", " ".join(printed.split()))[1]
    )
    assert 15 < suggested < 40 and (tmp_path / "curve.png").exists()
