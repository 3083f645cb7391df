"""The notebook of the documentation runs, in fewer steps, and its committed outputs are small and show pictures."""

import json
import re

import pytest

from tests.helpers.forked import run_forked
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.integration
NOTEBOOK = ROOT / "docs" / "notebooks" / "birq.ipynb"
SHORTER = {
    "max_steps=100": "max_steps=20",
    "trainer.max_steps=40": "trainer.max_steps=2",
    "limit_train_batches=40": "limit_train_batches=2",
}
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_runs(tmp_path):
    source = "\n\n".join("".join(cell["source"]) for cell in CODE)
    for long, short in SHORTER.items():
        assert long in source
        source = source.replace(long, short)
    script = tmp_path / "notebook.py"
    script.write_text(
        f"import os\n\nimport matplotlib\n\nmatplotlib.use('Agg')\nos.chdir({str(NOTEBOOK.parent)!r})\n{source}\n"
    )
    done = run_forked([str(script)], entry="tests.helpers.forked:run_file")
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-5000:]
    assert "100% of the anchor labels are equal" in printed and "PNMI" in printed and "WER" in printed


def test_its_outputs_are_committed_and_small():
    assert NOTEBOOK.stat().st_size < 1e6
    outputs = [output for cell in CODE for output in cell["outputs"]]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2 and all(output["output_type"] != "error" for output in outputs)
    texts = "".join("".join(output.get("text", [])) for output in outputs)
    assert "WER" in texts and not re.search(r"/home/|/root/", texts)
