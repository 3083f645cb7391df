"""The scripts that compare labels with phones, as a user runs them."""

import json
import runpy
import sys
from collections import Counter
from math import log
from pathlib import Path

import pytest
from nemo.utils import logging

from tests.helpers.forked import run_forked
from tests.helpers.label_quality import CTM, MANIFEST, make_model_with_losses
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.system


@pytest.fixture
def small(tmp_path) -> Path:
    make_model_with_losses().save_to(str(tmp_path / "small.nemo"))
    return tmp_path / "small.nemo"


def test_command_of_a_user(small, tmp_path):
    out = tmp_path / "out"
    command = [str(ROOT / "scripts" / "label_quality.py"), str(small), f"--manifest={MANIFEST}", f"--alignments={CTM}"]
    arguments = [*command, f"--out={out}", "--hours=0.02"]
    done = run_forked(arguments, entry="tests.helpers.forked:run_file", env=[{"COLUMNS": "120"}])
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    result = json.loads((out / "label_quality_small.json").read_text())
    assert (result["model"], result["step"], result["num_codes"]) == (str(small), None, 24)
    assert 3 < result["phone_entropy"] < log(41) and "--hours=0.02" in result["command"]
    assert Counter(row["labels"] for row in result["rows"]) == {"anchor": 1, "enhanced": 1, "layer": 3, "kmeans": 3}
    for row in result["rows"]:
        assert row["codes"] == 24 >= row["codes_used"] and row["pnmi_by_chance"] < row["pnmi"] < 1
        assert f"{row['pnmi']:.3f}" in printed
    for text in ("Which layer k?", "only at the same number of codes", "SIL", "2 = k"):
        assert text in printed
    for name in ("label_quality_small_layers.png", "label_quality_small_phones.png"):
        assert (out / name).stat().st_size > 10_000


def test_picture_of_an_utterance(small, tmp_path, monkeypatch, capsys):
    """The script runs in this process, where it is already imported."""
    script = str(ROOT / "scripts" / "show_utterance.py")
    arguments = [script, str(small), f"--manifest={MANIFEST}", f"--alignments={CTM}"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--utterance=spk024-validation-00001"])
    with logging.temp_verbosity(logging.WARNING):  # the script sets it
        runpy.run_path(script, run_name="__main__")
    picture = tmp_path / "spk024-validation-00001.png"
    assert capsys.readouterr().out.strip().endswith(str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 50_000
    named = tmp_path / "new" / "drawn.png"
    monkeypatch.setattr(sys, "argv", [*arguments, "--utterance=spk024-validation-00001", f"--out={named}"])
    with logging.temp_verbosity(logging.WARNING):
        runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr().out.strip() == str(named) and named.read_bytes() == picture.read_bytes()
    monkeypatch.setattr(sys, "argv", [*arguments, "--utterance=nobody"])
    with pytest.raises(SystemExit, match=r"validation\.json.*\bnobody\b.*spk024-"):
        runpy.run_path(script, run_name="__main__")
