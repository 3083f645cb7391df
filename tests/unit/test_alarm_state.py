"""Checkpoints and alarms.json keep their keys, so that runs of earlier versions resume."""

import pytest

from nemo_birq.config import parse
from nemo_birq.monitoring.alarms import Alarms
from nemo_birq.monitoring.callback import HealthMonitor

pytestmark = pytest.mark.unit


def test_the_state_of_an_earlier_version_is_loaded_and_kept():
    alarm = {"name": "noise_labels", "step": 0, "value": 0.01, "threshold": 0.1, "message": "..."}
    state = {"raised": [alarm], "widest": {"enhanced_normalized_entropy": 0.8}, "judged": False}
    alarms = Alarms(parse({}))
    alarms.load_state_dict(state)
    assert alarms.at_peak_entropy == {"enhanced_normalized_entropy": 0.8} and alarms.verdict == "unhealthy"
    assert alarms.state_dict() == state


def test_the_monitor_has_the_state_where_earlier_checkpoints_have_it():
    monitor = HealthMonitor(parse({}), 16_000)
    assert monitor.state_key == "Alarms" and monitor.state_dict() == monitor.alarms.state_dict()
