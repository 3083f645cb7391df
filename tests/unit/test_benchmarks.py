"""The arithmetic behind docs/performance.md, and the variants that it compares."""

import math
import re
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nemo.collections.asr.modules import RandomBlockMasking

from nemo_birq.modules.layer_pass import encode_to_layer
from tests.helpers.benchmarks import SMALL
from tests.helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import step
from step_comparison import compare, exponent, ratio, spread
from step_cost import LargestTensor, largest_fitting
from step_timing import LOSS, MASKED_PASS, OPTIMIZER, Clock, Parts, sums
from step_variants import BUILDERS, Setting, build, start_probability

pytestmark = pytest.mark.unit
SETTING = Setting("birq_conformer_tiny", SMALL, batch_seconds=3, utterance_seconds=1.5)


class Ticks:
    """A clock with given times."""

    def __init__(self, *times: float):
        self.now = iter(times).__next__


def test_parts_add_up_to_the_step_and_count_once():
    clock = Clock("cpu")
    #                 began start enter enter leave leave last  ended
    clock.now = Ticks(0.0, 0.0, 1.0, 3.0, 7.0, 8.0, 10.0, 10.0).now
    parts = Parts(clock)
    with parts.step() as seconds, parts.part(MASKED_PASS), parts.part(OPTIMIZER):
        pass
    assert seconds == {"step": 10.0, LOSS: 1.0 + 2.0, MASKED_PASS: 2.0 + 1.0, OPTIMIZER: 4.0}
    assert sums([seconds, {"step": 2.0}])[OPTIMIZER] == [4.0, 0.0]


def test_spread_and_ratio_of_known_rounds():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)
    slow_rounds = [1.0, 9.0, 2.0, 30.0, 4.0]
    # Whatever slows a round slows both, and leaves their ratio.
    assert ratio([2 * s for s in slow_rounds], slow_rounds) == pytest.approx((2.0, 2.0, 2.0))
    middle, low, high = ratio([3.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    assert (middle, low, high) == (2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match=r"\brounds\b.*\b1 and 2\b"):
        ratio([1.0], [1.0, 2.0])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent_of_an_exact_power_law(power):
    sizes = [15.0, 30.0, 60.0, 120.0]
    assert exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power, abs=1e-9)


def test_targets_are_judged_by_their_ratio():
    seconds = {"stock BEST-RQ": [4.0], "BEST-RQ": [3.2], "BiRQ": [4.0], "floor": [3.9]}
    rows = {(r["what"], r["of"], r["to"]): r for r in compare(seconds, {"stock BEST-RQ": 10.0, "BiRQ": 11.0})}
    reached = {key: (round(row["ratio"], 3), row["reached"]) for key, row in rows.items()}
    assert reached == {
        ("time", "BiRQ", "stock BEST-RQ"): (1.0, True),
        ("time", "BEST-RQ", "stock BEST-RQ"): (0.8, False),
        ("time", "BiRQ", "floor"): (1.026, True),
        ("memory", "BiRQ", "stock BEST-RQ"): (1.1, False),
    }


@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 50))
def test_largest_fitting_finds_the_limit(limit, most, start):
    tried = []

    def fits(count):
        tried.append(count)
        return count <= limit

    assert largest_fitting(fits, start, most) == min(limit, most)
    assert len(tried) <= 4 + 2 * math.log2(most + start)


def test_fill_takes_the_largest_batch_at_which_all_variants_take_a_step():
    class Limited:
        def __init__(self, most):
            self.most, self.optimizer = most, torch.optim.SGD([torch.zeros(1, requires_grad=True)])

        def step(self, batch):
            if len(batch.signal) > self.most:
                raise torch.OutOfMemoryError

    setting = Setting("birq_conformer_tiny", utterance_seconds=2.0)
    filled = step.fill({"small": Limited(5), "large": Limited(9)}, setting)
    assert filled.batch_seconds == 10.0 and len(filled.batch().signal) == 5
    with pytest.raises(ValueError, match=r"--fill\b.*\b2 s\b.*--variants"):
        step.fill({"none": Limited(0)}, setting)


def test_largest_tensor_is_the_largest_result_of_an_operation():
    left = torch.zeros(10, 20, dtype=torch.float64, requires_grad=True)
    right = torch.zeros(20, 300, dtype=torch.float64)
    with LargestTensor() as largest:
        product = left @ right
        product.view(300, 10).add_(0)
    assert largest.bytes == 10 * 300 * 8 and "mm" in largest.what and "(10, 300) float64" in largest.what
    with LargestTensor(20) as of_twenty:
        left.sum() * right, left @ right, right[:10] + 1, left + 1
    assert of_twenty.bytes == 20 * 300 * 8
    with LargestTensor(10) as of_ten:
        left.sum() * right, left + 1
    assert of_ten.bytes == 10 * 20 * 8
    with LargestTensor() as largest:
        (left.sum() * right).sum().backward()
    assert largest.bytes == 20 * 300 * 8  # 0-dimensional times (20, 300)


def test_stock_masking_is_given_our_coverage():
    torch.manual_seed(0)
    for coverage, span, frames in [(0.331, 40, 1500), (0.306, 12, 150), (0.5, 40, 60)]:
        module = RandomBlockMasking(4, start_probability(coverage, span, frames), span, allow_overlap=True)
        _, masks = module(torch.zeros(4000, 4, frames), torch.full((4000,), frames))
        assert float(masks.mean()) == pytest.approx(coverage, abs=0.01)


@pytest.mark.parametrize("name", BUILDERS)
def test_variants_train_and_their_parts_are_found(name):
    variant, batch = build(name, SETTING), SETTING.batch()
    before = variant.trained[0].clone()
    with variant.parts.step() as seconds:
        loss = variant.step(batch)
    assert not torch.equal(before, variant.trained[0])
    assert sum(value for part, value in seconds.items() if part != "step") == pytest.approx(seconds["step"], abs=1e-3)
    assert ("label pass" in seconds) == (name not in ("stock BEST-RQ", "BEST-RQ"))
    assert {"masked pass", "backward", OPTIMIZER} <= set(seconds)
    if name.endswith("BEST-RQ"):  # at the start each code is as likely as any other
        assert float(loss) == pytest.approx(math.log(16), abs=0.7)


def test_bfloat16_is_in_force():
    setting = Setting("birq_conformer_tiny", SMALL, precision="bf16-mixed", batch_seconds=2, utterance_seconds=2)
    variant = build("BiRQ", setting)
    seen = []
    variant.model.encoder.layers[0].feed_forward1.linear1.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    assert math.isfinite(variant.step(setting.batch()))
    assert seen == [torch.bfloat16] * 2  # the masked pass and the label pass


def test_floor_runs_the_label_pass_of_the_method():
    variant, batch = build("floor, label gradient", SETTING), SETTING.batch()
    model, outputs = variant.model, []
    layer = model.encoder.layers[model.layer - 1]
    layer.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    calls = []
    model.encoder.layers[-1].register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(0)
    variant.loss(batch, 0)
    features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    hidden, _ = encode_to_layer(model.encoder, features, lengths, model.layer)
    torch.testing.assert_close(outputs[1], hidden, atol=1e-2, rtol=1e-2)  # the preprocessor dithers
    assert len(calls) == 1 and len(model.encoder.layer_drop_probs) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "conformer_huge"], "unknown; there are.*birq_conformer_tiny"),
        (["--batch-seconds", "0.5"], "at least 1 second"),
        (["--device", "cuda"], "sees no GPU here"),
        (["--fill"], "give --batch-seconds"),
        (["--clock", "processor", "--threads", "2"], "--threads 1"),
        (["--precision", "fp8"], "invalid choice: 'fp8'"),
        (["--rounds", "0"], "--rounds 0: at least 1"),
    ],
)
def test_bad_input_is_named(arguments, message, monkeypatch, capsys):
    if torch.cuda.is_available() and "cuda" in arguments:
        pytest.skip("a GPU is here")
    monkeypatch.setattr(sys, "argv", ["step.py", *arguments])
    with pytest.raises(SystemExit):
        step.main()
    text = capsys.readouterr().err
    assert re.search(message, " ".join(text.split())), text
