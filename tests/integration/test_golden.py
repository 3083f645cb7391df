"""Seeded training gives the committed losses: only a change of the method changes them."""

import json
from functools import partial

import pytest
from torch.utils.checkpoint import checkpoint

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


def checkpointed(model):
    for layer in model.encoder.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compiled(model):
    """Traces like the compiler. Its kernels take a minute to compile; benchmarks/levers.py uses them."""
    for layer in model.encoder.layers:
        layer.compile(dynamic=True, backend="eager")


FASTER = {
    "SDPA": {"encoder__use_pytorch_sdpa": True},
    "larger chunks": {"birq__loss__chunk_frames": 4096},
    "fused AdamW": {"fused": True},
    "activation checkpointing": {"speed_up": checkpointed},
    "compiled layers": {"speed_up": compiled},
}


@pytest.mark.parametrize("lever", FASTER)
def test_a_faster_step_gives_the_same_losses(lever):
    golden = json.loads(GOLDEN.read_text())["curves"]["no gradient through the labels"]
    found = run(0.0, steps=10, **FASTER[lever])
    for name in CURVES:
        assert found[name] == pytest.approx(golden[name][:1], rel=TOLERANCE), name
