"""The benchmark of a step, as a user runs it."""

import json
import subprocess
import sys

import pytest

from tests.helpers.benchmarks import SMALL
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.system


def test_command_of_a_user(tmp_path):
    out = tmp_path / "step.json"
    batch = ["--rounds", "2", "--batch-seconds", "3", "--utterance-seconds", "1.5"]
    files = ["--out", str(out), "--picture", str(tmp_path / "step.png")]
    variants = ["--variants", "stock BEST-RQ", "BiRQ"]
    command = [sys.executable, "benchmarks/step.py", *SMALL, *variants, *batch, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "BiRQ" in done.stdout and "Ratios" in done.stdout
    result = json.loads(out.read_text())
    birq, stock = result["variants"]["BiRQ"], result["variants"]["stock BEST-RQ"]
    assert birq["peak"] > birq["idle"] > birq["libraries"] > 1e8
    assert birq["flop"] > stock["flop"] > 1e7
    assert result["batch"] == {"utterances": 2, "seconds": 3.0, "frames": 75}
    assert birq["audio_hours_per_hour"] == pytest.approx(3.0 / birq["seconds"]["median"])
    assert (tmp_path / "step.png").stat().st_size > 5000
