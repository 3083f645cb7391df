"""Probes, compared with scikit-learn and torch, on synthetic features with known answers, and once on real ones."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from nemo_birq.evaluation.probing.evaluation import conclusion, constant_error, evaluate
from nemo_birq.evaluation.probing.linear import LinearProbes, Split, Training, as_tensors, fit, score
from nemo_birq.evaluation.probing.results import write_results
from nemo_birq.evaluation.probing.tasks import CtcTask, FrameTask
from nemo_birq.evaluation.results import check_out
from nemo_birq.utils.progress import ProgressBars

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
PHONES = FrameTask(["A", "B", "C", "D"])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made_up(utterances: int, informative: int | None, layers: int = 3, seed: int = 0, shuffled: bool = False) -> Split:
    """Makes utterances of 20 frames; one layer has one of four directions for each phone, the others are noise."""
    random = np.random.default_rng(seed)
    phones = random.integers(0, 4, utterances * 20)
    frames = normal(layers, len(phones), 8, seed=seed) * torch.tensor([1.0, 30.0, 0.01]).repeat(layers)[:layers, None, None]
    if informative is not None:
        frames[informative] = 0.3 * frames[informative] + 100 * torch.eye(8)[phones] * frames[informative].std() - 7
    if shuffled:
        random.shuffle(phones)
    return Split(frames, [20] * utterances, as_tensors(phones.reshape(utterances, 20)))


# --- probes -----------------------------------------------------------------------------------------------------------


def test_the_layer_with_the_phones_is_found():
    train, dev, test = (made_up(60, informative=1, seed=seed) for seed in range(3))
    fitted = fit(train, dev, PHONES, Training(epochs=60, learning_rate=0.05), CPU, weighted_sum=True)
    _, wrong, total = score(fitted.probes, test, PHONES, CPU)
    rates = (wrong.sum(1) / total.sum()).tolist()
    assert rates[1] == 0 and rates[3] == 0  # layer 2 and the weighted sum read everything
    assert all(0.68 < rate < 0.82 for rate in (rates[0], rates[2]))  # of four phones, by chance, 1200 frames
    weights = fitted.probes.layer_weights
    assert weights.argmax() == 1 and weights[1] > 0.6 and math.isclose(weights.sum().item(), 1, abs_tol=1e-6)


def test_shuffled_labels_are_read_by_chance_only():
    train, dev, test = (made_up(60, informative=1, seed=seed, shuffled=True) for seed in range(3))
    fitted = fit(train, dev, PHONES, Training(epochs=10), CPU, weighted_sum=True)
    _, wrong, total = score(fitted.probes, test, PHONES, CPU)
    deviation = (0.75 * 0.25 / int(total.sum())) ** 0.5
    assert ((wrong.sum(1) / total.sum() - 0.75).abs() < 4 * deviation).all()
    assert abs(constant_error(train, test, PHONES) - 0.75) < 4 * deviation


def test_probes_trained_side_by_side_are_those_trained_alone():
    train, dev = made_up(12, informative=0), made_up(6, informative=0, seed=1)
    together = fit(train, dev, PHONES, Training(epochs=4), CPU, weighted_sum=True)
    for layer in range(3):
        alone = fit(
            train._replace(frames=train.frames[layer : layer + 1]), dev._replace(frames=dev.frames[layer : layer + 1]),
            PHONES, Training(epochs=4), CPU, weighted_sum=False,
        )  # fmt: skip
        torch.testing.assert_close(alone.probes.weight[0], together.probes.weight[layer], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.dev_losses[:, 0], together.dev_losses[:, layer], rtol=1e-4, atol=1e-5)


def test_frame_probe_against_scikit_learn():
    """With overlapping phones and without regularization, both find the same optimum."""
    random = np.random.default_rng(0)
    phones = random.integers(0, 4, 800)
    frames = (torch.eye(6)[phones] * 1.5 + normal(800, 6)).unsqueeze(0)
    split = Split(frames, [40] * 20, as_tensors(phones.reshape(20, 40)))
    training = Training(epochs=300, learning_rate=0.1, batch_size=20)
    probes = fit(split, split, PHONES, training, CPU, weighted_sum=False)
    standard = ((frames[0] - frames[0].mean(0)) / frames[0].std(0, correction=0)).numpy()
    reference = LogisticRegression(C=np.inf, tol=1e-8, max_iter=2000).fit(standard, phones)
    losses, wrong, _ = score(probes.probes, split, PHONES, CPU)
    optimum = -np.log(reference.predict_proba(standard)[np.arange(800), phones])
    assert (losses.sum() / 800).item() == pytest.approx(optimum.mean(), rel=1e-3)
    np.testing.assert_allclose(losses[0], optimum.reshape(20, 40).sum(1), rtol=0.02)
    assert abs(int(wrong.sum()) - round(800 * (1 - reference.score(standard, phones)))) <= 3


def test_the_epoch_that_is_best_on_dev_is_kept():
    train, dev = made_up(20, informative=0), made_up(10, informative=None, seed=1)  # dev has none of the learned structure
    fitted = fit(train, dev, PHONES, Training(epochs=6, learning_rate=0.05), CPU, weighted_sum=True)
    losses, _, total = score(fitted.probes, dev, PHONES, CPU)
    torch.testing.assert_close(losses.sum(1) / total.sum(), fitted.dev_losses.min(0).values)
    assert (fitted.dev_losses.min(0).values < fitted.dev_losses[-1]).any()  # not the last one


def test_normalization_and_weighted_sum_by_hand():
    frames = normal(2, 50, 3) * 5 + 2
    probes = LinearProbes(frames, 4, weighted_sum=True)
    with torch.no_grad():
        probes.weight.copy_(normal(3, 3, 4, seed=1))
        probes.bias.copy_(normal(3, 1, 4, seed=2))
        probes.mixing.copy_(torch.tensor([0.0, math.log(3.0)]))  # weights 1/4 and 3/4
    standard = (frames.double() - frames.double().mean(1, keepdim=True)) / frames.double().std(1, correction=0, keepdim=True)
    mixed = 0.25 * standard[0] + 0.75 * standard[1]
    expected = [x @ w + b for x, w, b in zip([*standard, mixed], probes.weight.double(), probes.bias.double(), strict=True)]
    torch.testing.assert_close(probes(frames).double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    constant = LinearProbes(torch.ones(1, 5, 3), 2, weighted_sum=False)  # a feature that never changes
    assert constant(torch.ones(1, 5, 3)).isfinite().all()


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_ctc_loss_is_that_of_torch():
    task = CtcTask(list("abc"))
    counts, targets = [9, 4, 6], as_tensors([[0, 1, 1], [2], []])
    logits = normal(2, 19, 4).requires_grad_()
    found = task.losses(logits, counts, targets)
    for probe in range(2):
        expected, start = [], 0
        for count, target in zip(counts, targets, strict=True):
            log_probs = logits[probe, start : start + count].log_softmax(-1).unsqueeze(1)
            expected.append(
                torch.nn.functional.ctc_loss(
                    log_probs, target.unsqueeze(0), (count,), (len(target),), blank=3, reduction="sum"
                )
            )
            start += count
        torch.testing.assert_close(found[probe], torch.stack(expected))
    found.sum().backward()
    assert logits.grad.isfinite().all()


def test_ctc_errors_of_a_case_counted_by_hand():
    task = CtcTask(list("abc"))
    assert task.decode(torch.tensor([3, 0, 0, 3, 0, 1, 1, 3])) == [0, 0, 1]
    outputs = torch.tensor([[0, 0, 3, 1, 3, 2], [3, 3, 3, 3, 3, 3]])  # "ab" and "c"; then nothing
    targets = as_tensors([[0, 1, 1], [0]])
    assert task.errors(torch.eye(4)[outputs], [4, 2], targets).tolist() == [[1, 1], [3, 1]]
    assert task.sizes(targets).tolist() == [3, 1]
    # Three symbols, two of them alike, need four frames.
    assert task.num_impossible([3, 4, 1, 0], as_tensors([[0, 1, 1], [0, 1, 1], [0], []])) == 1


def test_frames_without_a_phone_are_not_counted():
    logits = torch.eye(4)[torch.tensor([[0, 1, 2, 3, 0]])] * 5
    targets = as_tensors([[0, -1, 1], [3, -1]])
    assert PHONES.errors(logits, [3, 2], targets).tolist() == [[1, 0]] and PHONES.sizes(targets).tolist() == [2, 1]
    right, other = -5 + math.log(math.exp(5) + 3), math.log(math.exp(5) + 3)
    assert PHONES.losses(logits, [3, 2], targets).tolist() == [[pytest.approx(right + other), pytest.approx(right)]]


def test_a_ctc_probe_learns_what_is_there():
    """Each symbol is two frames of its own direction, then one of silence."""
    random = np.random.default_rng(0)

    def spoken(utterances: int) -> Split:
        texts = [random.integers(0, 3, random.integers(1, 6)) for _ in range(utterances)]
        frames = [
            torch.eye(4)[np.repeat(text, 3) * np.tile([1, 1, 0], len(text)) + np.tile([0, 0, 3], len(text))]
            for text in texts
        ]
        noisy = torch.cat(frames) + 0.1 * torch.from_numpy(random.standard_normal((sum(map(len, frames)), 4))).float()
        return Split(noisy.unsqueeze(0), [len(frame) for frame in frames], as_tensors(texts))

    task = CtcTask(list("abc"))
    fitted = fit(spoken(80), spoken(20), task, Training(epochs=30, learning_rate=0.05), CPU, weighted_sum=False)
    _, wrong, _ = score(fitted.probes, spoken(30), task, CPU)
    assert wrong.sum() == 0


# --- results -------------------------------------------------------------------------------------------------------------


def test_rows_conclusion_and_files(tmp_path):
    splits = {
        name: {"pretrained": made_up(10, 1, seed=i), "log-mel": made_up(10, None, layers=1, seed=i)}
        for i, name in enumerate(("train", "dev", "test"))
    }
    rows = evaluate(splits, [2, 5, 6], PHONES, Training(epochs=60, learning_rate=0.05), CPU, ProgressBars(disable=True))
    assert [(row.representation, row.layer, row.is_weighted_sum) for row in rows] == [
        ("log-mel", None, False), *[("pretrained", layer, False) for layer in (2, 5, 6)], ("pretrained", None, True)
    ]  # fmt: skip
    assert rows[2].error == 0 and rows[2].error_interval == (0, 0)
    for row in rows:
        assert row.error_interval[0] <= row.error <= row.error_interval[1]
        assert row.loss_interval[0] <= row.loss <= row.loss_interval[1]
    assert conclusion(rows, PHONES, 0.7).startswith("Pretrained, weighted sum: frame error rate 0.0%, loss 0.")
    check_out(tmp_path, "probe_frames", tmp_path / "m.nemo")
    path, picture = write_results(rows, PHONES, tmp_path / "m.nemo", {"step": 3}, tmp_path)
    written = json.loads(path.read_text())
    assert (
        path.name == "probe_frames_m.json"
        and written["step"] == 3
        and written["rows"][4] == json.loads(json.dumps(rows[4].as_json()))
    )
    assert picture.stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"probe_frames_m\.json.*--out"):
        check_out(tmp_path, "probe_frames", tmp_path / "other" / "m.nemo")
