"""Seeded training gives the losses that it gave before: a change of the method shows, a change of the way there does not."""

import json

import pytest

from tests.helpers.golden_run import CURVES, GOLDEN, GRADIENTS, run

pytestmark = pytest.mark.integration
TOLERANCE = 1e-5  # of each mean over 10 steps; the sums that make it are float32


@pytest.mark.parametrize("kind", GRADIENTS)
def test_losses_of_200_steps(kind):
    golden = json.loads(GOLDEN.read_text())["curves"][kind]
    found = run(GRADIENTS[kind])
    for name in CURVES:
        assert found[name] == pytest.approx(golden[name], rel=TOLERANCE), name
    assert golden["anchor_loss"][-1] < golden["anchor_loss"][0] - 0.3  # something is learned
