"""Label quality over the training of a run: the evaluated models, and the content of the file."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from nemo_birq.evaluation.label_quality.evaluation import evaluate
from nemo_birq.evaluation.label_quality.over_training import evaluate_run, models_of
from nemo_birq.report.run_files import read_quality
from nemo_birq.utils.files import write_json
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.label_quality import make_model_with_losses, read_short_utterances

pytestmark = pytest.mark.unit


def write_checkpoint(model, folder: Path, step: int) -> str:
    content = {"state_dict": model.state_dict(), "global_step": step, "hyper_parameters": {"cfg": model.cfg}, "loops": {}}
    model.on_save_checkpoint(content)
    path = folder / f"small--val_loss=1.0-step={step}.ckpt"
    torch.save(content, path)
    return path.name


def test_over_training_each_step_has_one_evaluation(tmp_path):
    """A run that is training; its last checkpoint has k-means."""
    model, utterances = make_model_with_losses(), read_short_utterances()
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    names = [write_checkpoint(model, folder, step) for step in (10, 20)]
    assert [path.name for path in models_of(tmp_path / "run")] == names
    with ProgressBars(disable=True) as progress:
        first, last = evaluate_run(tmp_path / "run", utterances, progress)
        found = evaluate(model, utterances, progress, kmeans=False)
    assert (first["step"], last["step"], last["model"], last["relabelled"]) == (10, 20, names[1], False)
    assert Counter(row["labels"] for row in first["rows"]) == {"anchor": 1, "enhanced": 1, "layer": 3}
    assert Counter(row["labels"] for row in last["rows"]) == {"anchor": 1, "enhanced": 1, "layer": 3, "kmeans": 3}
    assert last["rows"][:5] == [row.as_json() for row in found.rows] and last["layer"] == model.layer
    # The nearest codes have the statistics of the audio, independent of the training of the model.
    assert abs(last["rows"][1]["pnmi"] - last["rows"][1 + model.layer]["pnmi"]) > 1e-3
    assert all(0 < row["entropy"] <= math.log(row["codes_used"]) for row in last["rows"])
    # The report of the run reads the file.
    notes: list[str] = []
    write_json(folder / "label_quality_over_training.json", {"evaluations": [first, last]})
    assert [one["step"] for one in read_quality(folder / "label_quality_over_training.json", notes)] == [
        10,
        20,
    ] and not notes


def test_the_end_of_a_run_is_not_evaluated_twice(tmp_path):
    """Its checkpoint and its .nemo are the same model."""
    model = make_model_with_losses()
    model.save_to(str(tmp_path / "small.nemo"))
    name = write_checkpoint(model, tmp_path, 0)  # a .nemo without a record of its training has the step 0
    assert [path.name for path in models_of(tmp_path)] == [name, "small.nemo"]
    with ProgressBars(disable=True) as progress:
        (only,) = evaluate_run(tmp_path / "small.nemo", read_short_utterances(), progress, kmeans=False)
    assert (only["model"], only["step"]) == ("small.nemo", 0)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
        (tmp_path / "two" / name / "x.nemo").touch()
    (tmp_path / "empty").mkdir()
    for folder, error, said in (
        ("two", ValueError, r"several runs \(.*two/a, .*two/b\)"), ("empty", FileNotFoundError, r"empty holds no \.ckpt"),
        ("nowhere", FileNotFoundError, "nowhere is neither a folder"),
    ):  # fmt: skip
        with pytest.raises(error, match=said):
            models_of(tmp_path / folder)
