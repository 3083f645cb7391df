"""Files of scores that are damaged, or whose numbers do not follow from their texts: one line names file and key."""

import copy
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from nemo_birq.evaluation.results import check_out, result_path
from nemo_birq.extraction.store import PartStore
from nemo_birq.scoring.comparison import compare
from nemo_birq.scoring.comparison_command import compare_scores
from nemo_birq.scoring.record import finished
from nemo_birq.scoring.results import summarize
from nemo_birq.scoring.score_file import read_score
from nemo_birq.scoring.tuning import Trial, read_trials
from nemo_birq.utils.files import write_json

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def score() -> dict:
    """A score of forty utterances of four speakers, every fourth with an error, with a character that the model lacks."""
    lines = [
        {"audio_filepath": f"{i}.wav", "duration": 1.0 + 0.1 * i, "text": "A b\u00e9 c, d", "speaker": f"s{i % 4}"}
        for i in range(40)
    ]
    found = {"manifest": "test.json", "name": "test"} | summarize(lines, ["a b\u00e9 c x"] * 10 + ["a b\u00e9 c d"] * 30)
    return json.loads(json.dumps(found | {"unwritable": {"\u00e9": 40}}))


def write(path: Path, score: dict, key: str = "", value: object = None) -> Path:
    """Writes a score with one value replaced; ``key`` is ``utterances.3.errors``; None removes it."""
    changed = copy.deepcopy(score)
    *outer, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    place = changed
    for part in outer:
        place = place[part]
    if value is None:
        place.pop(last, None)
    else:
        place[last] = value
    path.write_text(json.dumps(changed))
    return path


def test_a_score_is_read_as_it_was_written(score, tmp_path):
    path = tmp_path / "score.json"
    write_json(path, score)
    assert read_score(path) == score
    assert score["speakers"] and score["lengths"] and score["wer_interval_over_speakers"]  # all kinds of numbers


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("utterances.3.errors", 0, "recorded as 0, and its texts give 1"),
        ("utterances.3.errors", math.nan, "recorded as nan, and its texts give 1"),
        ("utterances.3.errors", -1, "recorded as -1"),
        ("utterances.3.errors", True, "recorded as True"),
        ("utterances.3.errors", "1", "recorded as '1'"),
        ("utterances.3.errors", 10**400, "recorded as 1000"),
        ("utterances.3.errors", None, "is missing"),
        ("utterances.3.words", 400, "recorded as 400, and its texts give 4"),
        ("utterances.3.character_errors", 0, "and its texts give 1"),
        ("utterances.3.substitutions", 0, "and its texts give 1"),
        ("utterances.3.hypothesis_scored", "a b\u00e9 c d", "errors is recorded as 1, and its texts give 0"),
        ("utterances.3.reference_scored", 5, "must be a text"),
        ("utterances.3.hypothesis", "\ud800", "must be a text"),
        ("utterances.3.audio_filepath", None, "must be a text"),
        ("utterances.3.offset", math.inf, "number of seconds"),
        ("utterances.3.duration", [1.0], "number of seconds"),
        ("utterances.3.speaker", ["s0"], "must be a text or null"),
        ("utterances.3", 7, "must be an object"),
        ("utterances", [], "no utterances"),
        ("utterances", None, "no utterances"),
        ("normalization.steps", None, "normalization.steps"),
        ("normalization.references_changed", 0, "recorded as 0, and its texts give 40"),
        ("errors", 0, "errors is recorded as 0, and its texts give 10"),
        ("num_utterances", 4000, "its texts give 40"),
        ("wer", 0.0, "wer is recorded as 0.0, and its texts give 0.0625"),
        ("wer", math.nan, "wer is recorded as nan"),
        ("cer", None, "cer is missing"),
        ("wer_interval", [0.0, 0.0], "wer_interval is recorded as"),
        ("wer_interval", [0.5, math.nan], "wer_interval is recorded as"),
        ("wer_interval", "narrow", "wer_interval is recorded as"),
        ("cer_interval_over_speakers", [0.02, 0.02], "cer_interval_over_speakers is recorded as"),
        ("speakers.0.wer", 0.0, r"speakers\[0\].wer is recorded as 0.0"),
        ("lengths", [], r"lengths is recorded as \[\]"),
        ("seconds", 1e9, "seconds is recorded as 1000000000.0"),
        ("unwritable", {"\u00e9": 4000}, "its texts give 40"),
        ("manifest", 3, "manifest is 3"),
    ],
)
def test_numbers_that_do_not_follow_from_the_texts(score, tmp_path, key, value, said):
    path = write(tmp_path / "score.json", score, key, value)
    with pytest.raises(ValueError, match=rf"^\S*score\.json is \b.*{said}") as error:
        read_score(path)
    assert "\n" not in str(error.value)


def test_another_draw_of_the_bootstrap_is_believed(score, tmp_path):
    low, high = score["wer_interval"]
    nearly = [low + 0.05 * (high - low), high - 0.05 * (high - low)]
    assert read_score(write(tmp_path / "score.json", score, "wer_interval", nearly))["wer_interval"] == nearly


@pytest.mark.parametrize(
    "content", [b"", b'{"utterances": [', b"[]", b"\xff", b"[" * 100_000, b'{"wer": ' + b"9" * 5000 + b"}"]
)
def test_files_that_are_cut_off_or_something_else(tmp_path, content):
    """Files of every kind that a command reads back."""
    path = tmp_path / "score.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"score\.json is damaged"):
        read_score(path)
    with pytest.raises(ValueError, match=r"score\.json exists and is not a score.*--out"):
        finished(path, {}, redo=False)
    for kind in ("probe_ctc", "label_quality"):
        result_path(tmp_path, kind, Path("m.nemo")).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{kind}_m\.json is damaged"):
            check_out(tmp_path, kind, Path("m.nemo"))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"parts/settings\.json is damaged"):
        PartStore(tmp_path / "parts", {}, {})


def test_results_of_no_model_and_settings_of_nothing(tmp_path):
    result_path(tmp_path, "probe_ctc", Path("m.nemo")).write_text('{"model": 5}')
    with pytest.raises(ValueError, match=r"probe_ctc_m\.json is damaged: it names no model.*--out"):
        check_out(tmp_path, "probe_ctc", Path("m.nemo"))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "settings.json").write_text('{"settings": []}')
    with pytest.raises(ValueError, match=r"settings\.json is damaged: it has no 'settings'"):
        PartStore(tmp_path / "parts", {}, {})
    (tmp_path / "score.json").write_text('{"made_from": ["model"]}')
    with pytest.raises(ValueError, match=r"score\.json is damaged: made_from is \['model'\]"):
        finished(tmp_path / "score.json", {"model": "x"}, redo=False)


def test_the_command_says_it_in_one_line_and_claims_nothing(score, tmp_path):
    """With NaN as errors, the permutation test would find p < 0.001."""
    good = write(tmp_path / "good.json", score)
    bad = write(tmp_path / "bad.json", score, "utterances.3.errors", math.nan)
    assert compare(read_score(good), read_score(good))["wer"]["difference"] == 0
    result = CliRunner().invoke(compare_scores, [str(good), str(bad)])
    assert result.exit_code == 1 and result.output.count("\n") == 1 and "0.001" not in result.output
    assert "bad.json is damaged: utterances[3].errors is recorded as nan, and its texts give 1" in result.output


def test_trials_of_tuning(tmp_path):
    trials = [{"alpha": alpha, "beta": 1.0, "wer": 0.5, "cer": 0.25} for alpha in (0.0, 0.5)]
    path = tmp_path / "tuning.json"
    assert read_trials(path, {"trials": trials}, [0.0, 0.5], [1.0])[1] == Trial(0.5, 1.0, 0.5, 0.25)
    for spoiled in (math.nan, -0.1, "0.5", True, None, 10**400):
        with pytest.raises(ValueError, match=r"tuning\.json is damaged: trials\[1\]"):
            read_trials(path, {"trials": [trials[0], trials[1] | {"wer": spoiled}]}, [0.0, 0.5], [1.0])
    for given in (None, "x", [3]):
        with pytest.raises(ValueError, match=r"tuning\.json is damaged: trials\[0\]"):
            read_trials(path, {"trials": given}, [0.0, 0.5], [1.0])
    with pytest.raises(ValueError, match=r"tuning\.json is damaged.*grid"):
        read_trials(path, {"trials": trials[:1]}, [0.0, 0.5], [1.0])
