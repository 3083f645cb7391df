"""Trains probes and scores them: the error rate of each on the test set, with its interval."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_birq.evaluation.probing.linear import Scores, Split, Training, fit, score
from nemo_birq.evaluation.probing.representations import LOG_MEL, PRETRAINED, UNTRAINED
from nemo_birq.evaluation.probing.tasks import Task
from nemo_birq.scoring.confidence import ratio_interval
from nemo_birq.utils.progress import Progress


@dataclass
class ProbeScore:
    """Scores of one probe on the test set."""

    representation: str
    """``log-mel``, ``untrained`` or ``pretrained``."""
    layer: int | None
    """1..L; None for the log-mel features and for the weighted sum of layers."""
    error: float
    """Error rate on the test set."""
    error_interval: tuple[float, float]
    """95 % interval of the error rate, by a bootstrap over utterances."""
    loss: float
    """Loss on the test set, in nats per symbol or frame."""
    loss_interval: tuple[float, float]
    dev_loss: float
    """Lowest loss on the dev set, which chooses the epoch."""
    epoch: int
    """The chosen epoch, from 1."""
    layer_weights: list[float] | None = None
    """Weights of the layers in the weighted sum; None for a single layer."""

    @property
    def is_weighted_sum(self) -> bool:
        return self.layer_weights is not None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    splits: dict[str, dict[str, Split]],
    layers: list[int],
    task: Task,
    training: Training,
    device: torch.device,
    progress: Progress,
) -> list[ProbeScore]:
    """Trains and tests the probes of each representation.

    Args:
        splits: splits by set (``train``, ``dev``, ``test``) and representation.
        layers: numbers of the K layers of the encoders.
        task, training, device: see ``linear.fit``.
        progress: shows the epochs, each with the representation and the lowest loss on the dev set.
    """
    advance = progress.start("probes", len(splits["train"]) * training.epochs)
    rows = []
    for name in sorted(splits["train"], key=[LOG_MEL, UNTRAINED, PRETRAINED].index):
        train, dev, test = (splits[part][name] for part in ("train", "dev", "test"))
        mixed = len(train.frames) > 1
        fitted = fit(
            train, dev, task, training, device, mixed,
            lambda losses, name=name: advance(1, f"{name}, loss on dev {float(losses.min()):.3f}"),
        )  # fmt: skip
        scores = score(fitted.probes, test, task, device)
        numbers: list[int | None] = [None] if name == LOG_MEL else list(layers)
        for probe, layer in enumerate([*numbers, None] if mixed else numbers):
            weights = fitted.probes.layer_weights.tolist() if mixed and layer is None else None
            rows.append(_score(name, layer, probe, scores, fitted.dev_losses, weights))
    return rows


def _score(name: str, layer: int | None, probe: int, scores: Scores, dev: Tensor, weights: list[float] | None) -> ProbeScore:
    sizes, errors, losses = scores.sizes.numpy(), scores.errors[probe].numpy(), scores.losses[probe].double().numpy()
    best = int(dev[:, probe].argmin())
    return ProbeScore(
        name,
        layer,
        error=float(errors.sum() / sizes.sum()),
        error_interval=ratio_interval(errors, sizes),
        loss=float(losses.sum() / sizes.sum()),
        loss_interval=ratio_interval(losses, sizes),
        dev_loss=float(dev[best, probe]),
        epoch=best + 1,
        layer_weights=weights,
    )


def constant_error(train: Split, test: Split, task: Task) -> float:
    """Computes the error rate of a constant answer on the test set: the most frequent phone, or with CTC no symbol."""
    if task.name == "ctc":
        return 1.0
    phones, wanted = torch.cat(train.targets), torch.cat(test.targets)
    return float((wanted[wanted >= 0] != phones[phones >= 0].mode().values).float().mean())


def conclusion(rows: list[ProbeScore], task: Task, constant: float) -> str:
    """Names the best probe of each representation in a sentence; ``constant`` is that of ``constant_error``."""
    best = {name: min((row for row in rows if row.representation == name), key=lambda row: row.loss)
            for name in dict.fromkeys(row.representation for row in rows)}  # fmt: skip
    top = best.pop(PRETRAINED)
    text = f"Pretrained, {_where(top)}: {task.metric} {top.error:.1%}, loss {top.loss:.3f}"
    for name, row in best.items():
        text += f"; {name}{'' if name == LOG_MEL else ', ' + _where(row)}: {row.error:.1%}, {row.loss:.3f}"
    return f"{text}; without input {constant:.1%}."


def _where(row: ProbeScore) -> str:
    return "weighted sum" if row.is_weighted_sum else f"layer {row.layer}"
