"""Linear probes on all layers of a frozen encoder, trained in parallel, and one on a learned weighted sum of the layers.

The probes share only batches. Their parameters and Adam's moments are separate, so the result of each is the same as if it
were trained alone. Each keeps the weights of the epoch with the lowest loss on the dev set.

Shapes: K layers, N frames of all utterances, D width, P = K probes or K + 1 with the weighted sum, C outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nemo_birq.evaluation.probing.tasks import Task

SCORING_BATCH = 64  # utterances


class Split(NamedTuple):
    """Utterances of a training, dev or test set with their representation and targets."""

    frames: Tensor
    """(K, N, D) float16 or float32 on the CPU, with the utterances in sequence."""
    counts: list[int]
    """Number of frames of each utterance; the sum is N."""
    targets: list[Tensor]
    """Targets of each utterance, in the form of the task."""

    def batches(self, size: int, generator: torch.Generator | None, device: torch.device) -> Iterator["Split"]:
        """Yields batches of ``size`` utterances with float32 frames, in random order if there is a generator."""
        order = range(len(self.counts)) if generator is None else torch.randperm(len(self.counts), generator=generator)
        starts = (torch.tensor(self.counts).cumsum(0) - torch.tensor(self.counts)).tolist()
        order = [int(i) for i in order]
        for chosen in (order[i : i + size] for i in range(0, len(order), size)):
            frames = torch.cat([self.frames[:, starts[i] : starts[i] + self.counts[i]] for i in chosen], dim=1)
            yield Split(
                frames.to(device).float(), [self.counts[i] for i in chosen], [self.targets[i].to(device) for i in chosen]
            )


@dataclass(frozen=True)
class Training:
    """Settings of the training of probes.

    Raises:
        ValueError: the number of epochs or the learning rate is not above 0.
    """

    epochs: int = 30
    learning_rate: float = 5e-3
    """Learning rate of Adam at the start; it falls to 0 along a cosine."""
    batch_size: int = 16
    """Utterances."""
    seed: int = 0

    def __post_init__(self):
        if self.epochs < 1 or not self.learning_rate > 0:
            raise ValueError(f"epochs={self.epochs} and learning_rate={self.learning_rate} must be above 0")


class LinearProbes(nn.Module):
    """A linear classifier for each layer, after a fixed normalization of each feature, and one for the weighted sum.

    Args:
        frames: (K, N, D) frames of the training set, which give means and variances of the features.
        num_outputs: number of outputs, C.
        weighted_sum: add a probe on sum_k softmax(w)_k x_k with the normalized layers x_k, as in SUPERB.
    """

    def __init__(self, frames: Tensor, num_outputs: int, weighted_sum: bool):
        super().__init__()
        layers, _, width = frames.shape
        moments = [torch.var_mean(layer.float(), dim=0, correction=0) for layer in frames]
        self.register_buffer("scale", torch.stack([(variance + 1e-8).rsqrt() for variance, _ in moments]).unsqueeze(1))
        self.register_buffer("mean", torch.stack([mean for _, mean in moments]).unsqueeze(1))
        self.weight = nn.Parameter(torch.zeros(layers + weighted_sum, width, num_outputs))
        self.bias = nn.Parameter(torch.zeros(layers + weighted_sum, 1, num_outputs))
        self.mixing = nn.Parameter(torch.zeros(layers), requires_grad=weighted_sum)

    @property
    def layer_weights(self) -> Tensor:
        """Returns softmax(w), (K,)."""
        return self.mixing.softmax(0)

    def forward(self, frames: Tensor) -> Tensor:
        """Computes logits (P, n, C) of frames (K, n, D)."""
        inputs = (frames - self.mean) * self.scale
        if self.mixing.requires_grad:
            mixed = torch.einsum("k,knd->nd", self.layer_weights, inputs)
            inputs = torch.cat([inputs, mixed.unsqueeze(0)])
        return torch.baddbmm(self.bias, inputs, self.weight)


class Fitted(NamedTuple):
    """Trained probes."""

    probes: LinearProbes
    """Probes with the weights of their best epochs."""
    dev_losses: Tensor
    """(epochs, P) losses on the dev set, in nats per symbol or frame."""


class Scores(NamedTuple):
    """Scores of P probes on each utterance."""

    losses: Tensor
    """(P, utterances), in nats."""
    errors: Tensor
    """(P, utterances) int64."""
    sizes: Tensor
    """(utterances,) int64, number of symbols or frames."""


def fit(
    train: Split,
    dev: Split,
    task: Task,
    training: Training,
    device: torch.device,
    weighted_sum: bool,
    after_epoch: Callable[[Tensor], None] = lambda losses: None,
) -> Fitted:
    """Trains probes.

    Args:
        train, dev: training and dev set.
        task: task whose loss is minimized; its loss on ``dev`` chooses the epoch.
        training: settings of the training.
        device: device of the training.
        weighted_sum: see ``LinearProbes``.
        after_epoch: function that is called with the (P,) losses on the dev set.
    """
    generator = torch.Generator().manual_seed(training.seed)
    probes = LinearProbes(train.frames, task.num_outputs, weighted_sum).to(device)
    optimizer = torch.optim.Adam([p for p in probes.parameters() if p.requires_grad], training.learning_rate)
    steps = training.epochs * -(-len(train.counts) // training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best = {name: value.clone() for name, value in probes.state_dict().items()}
    lowest = torch.full((len(probes.weight),), float("inf"))
    history = []
    for _ in range(training.epochs):
        for batch in train.batches(training.batch_size, generator, device):
            optimizer.zero_grad()
            losses = task.losses(probes(batch.frames), batch.counts, batch.targets)
            (losses.sum() / task.sizes(batch.targets).sum().clamp(min=1)).backward()
            optimizer.step()
            schedule.step()
        losses = mean_losses(probes, dev, task, device)
        better = losses < lowest
        lowest = torch.where(better, losses, lowest)
        _keep(best, probes, better.to(device))
        history.append(losses)
        after_epoch(losses)
    probes.load_state_dict(best)
    return Fitted(probes, torch.stack(history))


def _keep(best: dict[str, Tensor], probes: LinearProbes, better: Tensor) -> None:
    best["weight"][better] = probes.weight.detach()[better]
    best["bias"][better] = probes.bias.detach()[better]
    if better[-1]:
        best["mixing"] = probes.mixing.detach().clone()


@torch.inference_mode()
def mean_losses(probes: LinearProbes, split: Split, task: Task, device: torch.device) -> Tensor:
    """Computes the loss of each probe, (P,) on the CPU, in nats per symbol or frame."""
    total, size = torch.zeros(len(probes.weight), device=device), 0
    for batch in split.batches(SCORING_BATCH, None, device):
        total += task.losses(probes(batch.frames), batch.counts, batch.targets).sum(1)
        size += int(task.sizes(batch.targets).sum())
    return total.cpu() / size


@torch.inference_mode()
def score(probes: LinearProbes, split: Split, task: Task, device: torch.device) -> Scores:
    """Computes losses and errors of each utterance."""
    found = []
    for batch in split.batches(SCORING_BATCH, None, device):
        logits = probes(batch.frames)
        of_batch = task.losses(logits, batch.counts, batch.targets), task.errors(logits, batch.counts, batch.targets)
        found.append(Scores(*(value.cpu() for value in of_batch), task.sizes(batch.targets).cpu()))
    return Scores(*(torch.cat(values, -1) for values in zip(*found, strict=True)))


def as_tensors(targets: Sequence[Sequence[int]]) -> list[Tensor]:
    """Converts each sequence to (length,) int64."""
    return [torch.as_tensor(target, dtype=torch.int64) for target in targets]
