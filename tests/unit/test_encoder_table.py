"""Table, files and sentences of a comparison of encoders, from measures that are given."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nemo_birq.evaluation.abx.layers import LayerAbx
from nemo_birq.evaluation.abx.score import NO_TRIPLES, AbxError, AbxErrors
from nemo_birq.evaluation.encoder_comparison.differences import abx_differences
from nemo_birq.evaluation.encoder_comparison.measure import Measured
from nemo_birq.evaluation.encoder_comparison.results import write_results
from nemo_birq.evaluation.encoder_comparison.table import abx_cells, table
from nemo_birq.evaluation.probing.evaluation import ProbeScore
from nemo_birq.evaluation.probing.run import Probed

pytestmark = pytest.mark.unit
FIRST = AbxError(0.2, 9, {"a": 0.2, "b": 0.21, "c": 0.19})
SECOND = AbxError(0.1, 9, {"a": 0.1, "b": 0.11, "c": 0.09})
WORSE = AbxError(0.3, 9, {"a": 0.3, "b": 0.3, "c": 0.3})


def measured(name: str, chosen: AbxError, across: AbxError) -> Measured:
    """Two layers, of which the dev set chooses the second."""
    probe = ProbeScore("pretrained", 1, 0.5, (0.4, 0.6), 1.0, (0.9, 1.1), 1.0, 1)
    layers = [LayerAbx(1, AbxErrors(WORSE, WORSE), AbxErrors(SECOND, across)),
              LayerAbx(2, AbxErrors(FIRST, FIRST), AbxErrors(chosen, across))]  # fmt: skip
    return Measured(name, Path(f"{name}.nemo"), "BiRQModel", 1000, 25.0, 2, 8, {"ctc": Probed([probe], 1.0, [])},
                    {"ctc": "CER"}, layers)  # fmt: skip


def test_encoders_are_compared_with_the_first(tmp_path):
    """Every speaker has the same difference, so that its interval is a point; the rates differ between speakers."""
    rows = [measured("x", FIRST, NO_TRIPLES), measured("y", SECOND, SECOND)]
    (found,) = abx_differences(rows)  # across, the first one has no rate
    assert str(found) == "ABX within: y has -10.0 points against x, 95 % interval -10.0 to -10.0: they differ."
    assert abx_cells(rows[0], "across").error == "-"
    # Variance of the jackknife: 2 / 3 * (0.01 ** 2 + 0.01 ** 2); Student's t with two degrees of freedom: 4.303.
    assert abx_cells(rows[0], "within") == ("2", "20.0%", "15.0-25.0")
    write_results(rows, {}, tmp_path)
    written = json.loads((tmp_path / "encoders.json").read_text())
    assert written["abx_differences"][0]["difference"] == pytest.approx(-0.1)
    test = written["encoders"][0]["abx"][1]["test"]
    assert test["within"]["interval"] == pytest.approx([0.2 - 0.04969, 0.2 + 0.04969], abs=1e-5)
    assert test["across"] == {"error": None, "interval": None, "triples": 0, "without_speaker": {}}
    assert (tmp_path / "encoders.png").is_file()


def test_a_terminal_of_80_columns_breaks_no_word():
    names = ["birq_conformer_large_a", "stt_en_conformer_ctc_small"]
    rows = [replace(measured(name, FIRST, SECOND), metrics={"ctc": "phone error rate"}) for name in names]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(rows))
    printed = console.export_text()
    assert all(printed.count(name) == 5 for name in names)  # four measures and the size
    assert "phone error rate, best layer" in printed and "…" not in printed
    assert re.search(rf"ABX across *\n +{names[0]} +\d +10.0% +\d.*\n +{names[1]} +\d +10.0%", printed)
