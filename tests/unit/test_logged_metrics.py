"""A real training logs the numbers that the registry lists, and no others."""

import pytest

from nemo_birq.monitoring.metrics import logged_tags
from nemo_birq.report.events import scalars
from tests.helpers.models import make_model, train

pytestmark = pytest.mark.integration


def test_a_training_logs_what_the_registry_lists(tmp_path):
    """Two validations and two logged steps, so that labels can be compared with those before; tracked codes log most."""
    model = make_model(birq__watch__gradient_interval=1, birq__labels__codebook="tracked")
    train(model, tmp_path, steps=4, log_every_n_steps=1, val_check_interval=2)
    tags = {tag for tag in scalars(tmp_path) if tag != "hp_metric"}  # Lightning's mark of the hyper-parameters
    assert tags - logged_tags() == set(), "add these tags to nemo_birq/monitoring/metrics.py"
    assert logged_tags() - tags == set(), "nothing logs these metrics: remove them from nemo_birq/monitoring/metrics.py"
