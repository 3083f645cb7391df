"""Two processes, compared with one process on the joined batch."""

import pytest
import torch

from benchmarks.reliability.runs import rank_environments
from tests.helpers.ddp_worker import CASES
from tests.helpers.forked import run_forked

pytestmark = pytest.mark.integration
WATCHED = ("loss", "masked_fraction", "anchor_cumulative_coverage", "gradient_norm_anchor", "silent_share")
# Of a rank alone.
NOT_COMPARED = (
    "train_audio_hours_per_hour",
    "h/h",
    "train_mfu",
    "mfu",
    "train_padding_share",
    "train_memory_gb",
)
WORKER = "tests.helpers.ddp_worker"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    for devices in (1, 2):
        arguments = [WORKER, f"--devices={devices}", f"--out={folder}"]
        done = run_forked(arguments, entry=f"{WORKER}:main", env=rank_environments(devices))
        assert done.returncode == 0, done.stderr[-4000:]
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_those_of_the_joined_batch(results, case):
    joined, ranks = results[f"{case}-1-0"], [results[f"{case}-2-{rank}"] for rank in (0, 1)]
    assert joined["gradients"].keys() == ranks[0]["gradients"].keys()
    assert any(g.abs().max() > 1e-3 for g in joined["gradients"].values())
    for name, gradient in joined["gradients"].items():
        size = float(gradient.abs().max())  # sums in another order differ by float32's rounding of the largest terms
        for rank in ranks:
            difference = float((rank["gradients"][name] - gradient).abs().max())
            assert difference <= 1e-3 * size + 1e-7, (name, difference, size)
    assert {f"train_{name}" for name in WATCHED} <= joined["metrics"].keys()
    for key, value in joined["metrics"].items():
        if key in NOT_COMPARED:
            continue
        for rank in ranks:
            assert rank["metrics"][key] == pytest.approx(value, rel=1e-3 if "grad" in key else 1e-4, abs=1e-6), key
    for rank in ranks:
        for name in ("running_mean", "codebook"):
            torch.testing.assert_close(rank[name], joined[name], rtol=1e-4, atol=1e-5)


def test_tracked_codes_are_moved_by_the_frames_of_all_ranks(results):
    assert (results["tracked-1-0"]["codebook"] - results["birq-1-0"]["codebook"]).abs().max() > 1e-3


def test_ranks_share_codes_and_differ_in_masks_and_noise(results):
    one, two = results["birq-2-0"], results["birq-2-1"]
    assert all(torch.equal(one["fixed"][name], two["fixed"][name]) for name in one["fixed"])
    assert not torch.equal(one["mask"], two["mask"])
    assert not torch.equal(one["noise"], two["noise"])


def test_churn_is_over_the_frames_of_all_ranks(results):
    """Half of 4 frames change on one rank, none of 2 on the other; one measurement has no probe on one rank."""
    for rank in (0, 1):
        assert results[f"birq-2-{rank}"]["churn"] == [None, pytest.approx(2 / 6), 1.0]


def test_a_checkpoint_has_the_sums_and_the_labels_of_every_rank(results):
    """The second of two steps is not logged. Rank 0 writes the file, and each rank resumes with its own part."""
    (joined, _), ranks = results["separate_before_start-1-0"]["state"], []
    for rank in (0, 1):
        state, resumed = results[f"separate_before_start-2-{rank}"]["state"]
        ranks.append(state["ranks"])
        assert [of_rank["labels"]["train"].tolist() for of_rank in state["ranks"]] == [[[0], [0]], [[1], [1], [1]]]
        for before, after in zip(state["ranks"], resumed["ranks"], strict=True):
            assert all(torch.equal(value, after["log"]["sums"][name]) for name, value in before["log"]["sums"].items())
            assert torch.equal(before["labels"]["train"], after["labels"]["train"])
    for name, value in joined["ranks"][0]["log"]["sums"].items():
        if name.split(".")[0] in ("flops", "frames", "padded_frames"):
            continue  # the joined batch has more padding
        for gathered in ranks:
            torch.testing.assert_close(
                sum(of_rank["log"]["sums"][name] for of_rank in gathered), value, rtol=1e-4, atol=1e-4
            )
    assert joined["ranks"][0]["log"]["sums"]["health.anchor_frames"] > 0


def test_a_loss_that_is_not_finite_stops_all_ranks(results):
    for rank in (0, 1):
        assert "at step 3. Utterances of the batch: broken" in results[f"birq-2-{rank}"]["not_finite"]


def test_best_rq_makes_no_enhanced_labels(results):
    assert not any("enhanced_loss" in key for key in results["best_rq-2-0"]["metrics"])
    assert "train_enhanced_loss" in results["birq-2-0"]["metrics"]
