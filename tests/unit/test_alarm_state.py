"""Checkpoints and alarms.json keep their keys, so that earlier runs can resume; a damaged file does not stop a run."""

import json
import math

import pytest

from nemo_birq.config import parse
from nemo_birq.monitoring.alarms import Alarm, Alarms
from nemo_birq.monitoring.callback import HealthMonitor

pytestmark = pytest.mark.unit


def test_the_state_of_an_earlier_version_is_loaded_and_kept():
    alarm = {"name": "noise_labels", "step": 0, "value": 0.01, "threshold": 0.1, "message": "..."}
    state = {"raised": [alarm], "widest": {"enhanced_normalized_entropy": 0.8}, "judged": False}
    alarms = Alarms(parse({}))
    alarms.load_state_dict(state)
    assert alarms.at_peak_entropy == {"enhanced_normalized_entropy": 0.8} and alarms.verdict == "unhealthy"
    assert alarms.state_dict() == state | {"enhanced_learned": False}


def test_the_monitor_has_the_state_where_earlier_checkpoints_have_it():
    monitor = HealthMonitor(parse({}), 16_000)
    assert monitor.state_key == "Alarms" and monitor.state_dict() == monitor.alarms.state_dict()


ENTRY = {"name": "noise_labels", "step": 3, "value": 0.01, "threshold": 0.1, "message": "..."}
WHOLE = json.dumps({"status": "running", "alarms": [ENTRY]})


def resumed(folder, text: str | bytes) -> Alarms:
    """Returns the alarms of a run whose checkpoint has one alarm, and whose earlier file is ``text``."""
    (folder / "run_0").mkdir(exist_ok=True)
    (folder / "run_0" / "alarms.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    alarms = Alarms(parse({}))
    alarms.path = folder / "alarms.json"
    alarms.load_state_dict({"raised": [ENTRY | {"name": "silence"}], "widest": None, "judged": True})
    alarms.keep_earlier()
    alarms.start()
    return alarms


def test_alarms_raised_after_the_checkpoint_are_kept(tmp_path):
    assert resumed(tmp_path, WHOLE).raised == [Alarm(**ENTRY | {"name": "silence"}), Alarm(**ENTRY)]
    assert len(json.loads((tmp_path / "alarms.json").read_text())["alarms"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        WHOLE[:-20],
        "not JSON",
        b"\xff\xfe",
        "[" * 100_000,
        "[]",
        "null",
        json.dumps({"alarms": {"noise_labels": 3}}),
        json.dumps({"alarms": ["noise_labels"]}),
        json.dumps({"alarms": [{"name": "noise_labels"}]}),
        json.dumps({"alarms": [ENTRY | {"step": "3"}]}),
        json.dumps({"alarms": [ENTRY | {"step": True}]}),
        json.dumps({"alarms": [ENTRY | {"name": None}]}),
        json.dumps({"alarms": [ENTRY | {"value": [0.01]}]}),
        json.dumps({"alarms": [ENTRY | {"value": math.nan}]}),
        WHOLE.replace("0.01", "1e999"),
        WHOLE.replace("0.01", "1" + 400 * "0"),
    ],
    ids=lambda text: repr(text[-60:]),
)
def test_a_damaged_file_is_named_and_the_alarms_of_the_checkpoint_stay(tmp_path, monkeypatch, text):
    said = []
    monkeypatch.setattr("nemo_birq.monitoring.alarms.logging.warning", lambda text: said.append(text))
    assert [alarm.name for alarm in resumed(tmp_path, text).raised] == ["silence"]
    assert len(said) == 1 and str(tmp_path / "run_0" / "alarms.json") in said[0] and len(said[0]) < 600
    assert [alarm["name"] for alarm in json.loads((tmp_path / "alarms.json").read_text())["alarms"]] == ["silence"]


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    alarms = Alarms(parse({}))
    alarms.path = tmp_path / "alarms.json"
    state = {"raised": [ENTRY | {"value": math.nan, "threshold": math.inf}], "judged": False}
    alarms.load_state_dict(state | {"widest": {"enhanced_normalized_entropy": math.nan}})
    assert alarms.at_peak_entropy is None  # else no later entropy is above it
    alarms.start()
    (found,) = json.loads((tmp_path / "alarms.json").read_text(), parse_constant=refuse)["alarms"]
    assert found == ENTRY | {"value": None, "threshold": None}
