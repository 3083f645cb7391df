"""The corrected gradient of benchmarks/label_gradient.py: codes that are frequent for every frame do not attract labels."""

import sys

import pytest
import torch

from nemo_birq.labels.enhanced import EnhancedTargets
from nemo_birq.losses import fused_cross_entropy
from tests.helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from label_gradient import MOMENTUM, corrected_gradient

pytestmark = pytest.mark.unit
NUM_CODES = 12


@pytest.fixture
def targets() -> EnhancedTargets:
    generator = torch.Generator().manual_seed(0)
    units, codebook = (torch.randn(*shape, generator=generator) for shape in ((40, 1, 8), (1, NUM_CODES, 8)))
    units, codebook = (torch.nn.functional.normalize(tensor, dim=-1) for tensor in (units, codebook))
    return EnhancedTargets(units, codebook, logit_scale=10.0, temperature=0.5, hard=False, noisy=True, seed=0)


def test_a_head_that_knows_the_frequencies_alone_moves_labels_without_the_correction_only(targets: EnhancedTargets):
    selection = targets.select(slice(None), 0, torch.Generator().manual_seed(1))
    running = MOMENTUM / NUM_CODES + (1 - MOMENTUM) * selection.soft.mean(0)
    log_probs = running.log().expand(40, -1)
    plain = fused_cross_entropy._of_units(selection, log_probs, targets, 0)
    corrected = corrected_gradient(NUM_CODES)(selection, log_probs, targets, 0)
    assert plain.abs().max() > 0.01 and corrected.abs().max() < 1e-4


def test_the_correction_adds_the_gradient_of_the_frequencies(targets: EnhancedTargets):
    selection = targets.select(slice(None), 0, torch.Generator().manual_seed(1))
    log_probs = torch.randn(40, NUM_CODES, generator=torch.Generator().manual_seed(2)).log_softmax(1)
    soft = selection.soft.clone().requires_grad_()
    running = MOMENTUM / NUM_CODES + (1 - MOMENTUM) * selection.soft.mean(0)
    (soft * (running.log() - log_probs)).sum().backward()
    of_scores = selection.soft * (soft.grad - (selection.soft * soft.grad).sum(1, keepdim=True))
    expected = of_scores @ targets.codebook[0] * (targets.logit_scale / targets.temperature)
    torch.testing.assert_close(corrected_gradient(NUM_CODES)(selection, log_probs, targets, 0), expected)
